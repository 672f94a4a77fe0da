"""A pane of lines about a cluster: drawn from a slice of its snapshot, anew only where that slice changed."""

from __future__ import annotations

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from widgets.glyphs import Glyphs
from widgets.lines import LinePane


class ClusterPane(LinePane):
    """What the panes of tiers, GPUs and start queues share."""

    def __init__(self, inventory: Inventory, glyphs: Glyphs, title: str, *, id: str | None = None) -> None:
        super().__init__(id=id, glyphs=glyphs, title=title)
        self._inventory = inventory
        self._slice: tuple[object, ...] = ()
        self._snapshot: ClusterSnapshot | None = None

    def adopt(self, inventory: Inventory) -> None:
        """Go on with a changed inventory; the next snapshot is of that, and drawn whatever it says."""
        self._inventory, self._slice = inventory, ()
