"""The API double, for what is rendered for Kubernetes."""

from tests.kubernetes.conftest import double

__all__ = ["double"]
