"""The dashboard: four panes, the header above, the event log and the keys below."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container, Horizontal
from textual.lazy import Lazy
from textual.screen import Screen
from textual.widget import Widget

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from widgets.bars import Banner, ClockBar, EventLog, HeaderBar, KeysBar
from widgets.glyphs import Glyphs
from widgets.gpus import GpusPane
from widgets.lines import LinePane
from widgets.queue import QueuePane
from widgets.router import RouterPane
from widgets.tiers import TiersPane


class _Later(Lazy):
    """Mounted after the first frame; Textual's own ends the program with a traceback where the screen closes before."""

    async def mount_composed_widgets(self, widgets: list[Widget]) -> None:
        parent = self.parent
        assert isinstance(parent, Widget)

        async def mount() -> None:
            if parent.is_attached and self.is_attached:
                await parent.mount(self._replace_widget, after=self)
                await self.remove()

        self.call_after_refresh(mount)


class DashboardScreen(Screen[None]):
    """Composes the panes and hands each its slice."""

    def __init__(
        self,
        inventory: Inventory,
        snapshot: ClusterSnapshot,
        marks: tuple[str, ...],
        glyphs: Glyphs,
        banner: str = "",
    ) -> None:
        super().__init__()
        self.inventory = inventory
        self.snapshot = snapshot
        self.header = HeaderBar(inventory.name, marks, glyphs)
        self._banner = banner
        self.clock = ClockBar(id="clock")
        self.tiers = TiersPane(inventory, glyphs, id="tiers")
        self.gpus = GpusPane(inventory, glyphs, id="gpus")
        self.queue = QueuePane(inventory, glyphs, id="queue")
        self.router = RouterPane(glyphs, id="router")
        self.events = EventLog(glyphs, id="events")
        self.keys = KeysBar()

    def compose(self) -> ComposeResult:
        """Header, panes, events, keys; the tiers are painted first, the other panes a moment later."""
        with Horizontal(id="top"):
            yield self.header
            yield self.clock
        if self._banner:
            yield Banner(self._banner)
        with Container(id="panes"):
            yield self.tiers
            yield _Later(self.gpus)
            yield _Later(self.queue)
            yield _Later(self.router)
        yield self.events
        yield self.keys

    def on_mount(self) -> None:
        """Begin at the tiers."""
        self.header.show(self.snapshot if self.snapshot.taken is not None else None)
        self.tiers.focus()

    @property
    def panes(self) -> tuple[Widget, ...]:
        """The four, in the order of their numbers."""
        return (self.tiers, self.gpus, self.queue, self.router)

    @property
    def line_panes(self) -> tuple[LinePane, ...]:
        """Those of lines."""
        return (self.tiers, self.gpus, self.queue)

    def adopt(self, inventory: Inventory) -> None:
        """Go on with a changed inventory, of which the next snapshot is."""
        self.inventory = inventory
        for pane in (self.tiers, self.gpus, self.queue):
            pane.adopt(inventory)

    def show(self, snapshot: ClusterSnapshot) -> None:
        """Hand each pane its slice: one now, the others one by one, so that no key waits for all of them."""
        self.snapshot = snapshot
        self.header.show(snapshot)
        self.tiers.show(snapshot)
        for pane in (self.gpus, self.queue):
            pane.call_later(self._hand_to, pane)

    def _hand_to(self, pane: GpusPane | QueuePane) -> None:
        """Show it the latest snapshot, which is of the latest inventory."""
        pane.show(self.snapshot)

    def focused_pane(self) -> Widget:
        """The pane that has the focus (the first, if none has)."""
        return next((pane for pane in self.panes if pane.has_focus or pane.has_focus_within), self.tiers)

    def selection(self) -> str | None:
        """What the selected line of the focused pane is about."""
        pane = self.focused_pane()
        return pane.selected if isinstance(pane, LinePane) else None

    def go(self, number: int) -> None:
        """Focus pane `number` (1 to 4)."""
        pane = self.panes[number - 1]
        if self.has_class("zoomed"):
            self._zoom(pane)
        (self.router.prompt if pane is self.router else pane).focus()

    def toggle_zoom(self) -> None:
        """Give the focused pane all the room, or share it again."""
        if self.has_class("zoomed"):
            self.remove_class("zoomed")
            for pane in self.panes:
                pane.remove_class("-zoomed")
        else:
            self._zoom(self.focused_pane())

    def _zoom(self, pane: Widget) -> None:
        self.add_class("zoomed")
        for each in self.panes:
            each.set_class(each is pane, "-zoomed")

    def set_filter(self, words: str) -> None:
        """Show only lines with these words, in every pane of lines."""
        for pane in self.line_panes:
            pane.filter = words.strip().lower()
            pane.border_subtitle = f"/{pane.filter}" if pane.filter else ""
            pane.redraw()
