"""Every test of this folder is a lab test, and has the lab's fixtures."""

from pathlib import Path

import pytest

from tests.lab.fixtures import (
    dead_node,
    dead_node_once,
    lab_cluster,
    lab_cluster_once,
    lab_docker,
    lab_model,
    lab_sshd,
)

__all__ = ["dead_node", "dead_node_once", "lab_cluster", "lab_cluster_once", "lab_docker", "lab_model", "lab_sshd"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks them, so that nothing here runs by `make test`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)
