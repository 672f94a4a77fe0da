"""Which task a prompt is, and who should answer it: pure rules over the inventory and the snapshot."""

from backends.routing.classify import Classified, classify

__all__ = ["Classified", "classify"]
