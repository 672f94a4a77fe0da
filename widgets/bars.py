"""The lines above and below the panes: where one stands and how it is, what happened, which keys there are."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.content import Content
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import State
from widgets.format import fit, plain
from widgets.glyphs import Glyphs
from widgets.lines import Line, LinePane, line
from widgets.tiers import STYLES


class Bar(Widget):
    """A single line of spans that repaints only when they change."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "bar--good", "bar--warn", "bar--bad", "bar--dim", "bar--title", "bar--key", "bar--alert",
    }  # fmt: skip
    DEFAULT_CSS = """
    Bar { height: 1; background: $panel; }
    Bar > .bar--good { color: $text-success; text-style: bold; }
    Bar > .bar--warn { color: $text-warning; text-style: bold; }
    Bar > .bar--bad { color: $text-error; text-style: bold; }
    Bar > .bar--dim { text-style: dim; }
    Bar > .bar--title { text-style: bold; }
    Bar > .bar--key { color: $text-accent; text-style: bold; }
    Bar > .bar--alert { background: $error; color: $text; text-style: bold; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._spans: tuple[tuple[str, str], ...] = ()

    def put(self, *spans: tuple[str, str]) -> None:
        """Draw these spans of (text, style name), if they differ from those drawn."""
        if spans != self._spans:
            self._spans = spans
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """The line."""
        base = self.rich_style
        parts = [
            Segment(plain(text), base + self.get_component_rich_style(f"bar--{name}", partial=True) if name else base)
            for text, name in self._spans
        ]
        return Strip(parts).adjust_cell_length(self.size.width, base)


class HeaderBar(Bar):
    """Cluster, place, prognosis; and in words whatever limits this console (DEMO, READ-ONLY)."""

    def __init__(self, cluster: str, marks: Sequence[str], glyphs: Glyphs) -> None:
        super().__init__(id="header")
        self._cluster = cluster
        self._marks = tuple(marks)
        self._glyphs = glyphs
        self._snapshot: ClusterSnapshot | None = None

    def mark(self, marks: Sequence[str]) -> None:
        """Draw these marks instead."""
        self._marks = tuple(marks)
        self.show(self._snapshot)

    def show(self, snapshot: ClusterSnapshot | None) -> None:
        """Draw this snapshot's prognosis."""
        self._snapshot = snapshot
        state = snapshot.prognosis.state if snapshot else State.UNKNOWN
        words = snapshot.prognosis.summary if snapshot else f"reading{self._glyphs.ellipsis}"
        if snapshot and all(e.cause is None for e in snapshot.endpoints.values()):
            words = f"reading{self._glyphs.ellipsis}"
        left = f" {self._cluster} on {snapshot.here} " if snapshot and snapshot.here else f" {self._cluster} "
        marks = [(f" {mark} ", "alert") for mark in self._marks]
        taken = cell_len(left) + sum(cell_len(text) for text, _ in marks) + len(state.value) + 6
        room = max(0, self.size.width - taken)
        if snapshot and cell_len(words) > room:
            words = snapshot.prognosis.brief
        without = snapshot.prognosis.without if snapshot else None
        if without is not None and cell_len(words) + cell_len(without.words) + 3 <= room:
            words = f"{words} - {without.words}"
        self.put(
            (left, "title"),
            *marks,
            (f" {self._glyphs.of(state)} {state.value} ", STYLES[state.value]),
            (fit(words, room, self._glyphs.ellipsis), ""),
        )

    def on_resize(self) -> None:
        """Fit the summary to the new width."""
        self.show(self._snapshot)


class Banner(Static):
    """A sentence that stays on top for as long as the console is open."""

    DEFAULT_CSS = """
    Banner { height: auto; max-height: 4; background: $error; color: $text; text-style: bold; padding: 0 1; }
    """

    def __init__(self, text: str) -> None:
        super().__init__(Content(plain(text)), id="banner")


class ClockBar(Bar):
    """The time of day in a corner of its own, so that a second costs eight cells."""

    DEFAULT_CSS = "ClockBar { width: 10; dock: right; }"

    def tick(self, wall: float) -> None:
        """Show this time."""
        self.put((time.strftime(" %H:%M:%S ", time.localtime(wall)), "dim"))


class KeysBar(Bar):
    """The keys that matter here, as many as fit."""

    def __init__(self) -> None:
        super().__init__(id="footer")
        self._keys: tuple[tuple[str, str], ...] = ()
        self._grey: Collection[str] = ()

    def show(self, keys: Sequence[tuple[str, str]], grey: Collection[str] = ()) -> None:
        """Show (key, label) pairs, the most important first; those labels in grey that may not be done here."""
        self._keys, self._grey = tuple(keys), grey
        self._fill()

    def on_resize(self) -> None:
        """Fit them to the new width."""
        self._fill()

    def _fill(self) -> None:
        spans: list[tuple[str, str]] = []
        room = self.size.width
        for key, label in self._keys:
            room -= len(key) + len(label) + 3
            if room < 0:
                break
            grey = label in self._grey
            spans += [(f" {key}", "dim" if grey else "key"), (f" {label} ", "dim" if grey else "")]
        self.put(*spans)


class EventLog(LinePane):
    """What happened, newest last; bounded."""

    KEEP = 1000
    DEFAULT_CSS = """
    EventLog, EventLog:focus, EventLog.ascii, EventLog.ascii:focus {
        border: none; height: 3; scrollbar-size-vertical: 0; scrollbar-gutter: auto;
    }
    """

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id, glyphs=glyphs)
        self._events: list[Line] = []
        self._behind = False

    def add(self, wall: float, text: str, style: str) -> None:
        """Append one line with its time of day."""
        stamp = time.strftime("%H:%M:%S ", time.localtime(wall))
        self._events.append(line((stamp, "dim"), (text, style)))
        del self._events[: -self.KEEP]
        if not self._behind:  # many may come at once, and are drawn once
            self._behind = True
            self.call_next(self._draw)

    def _draw(self) -> None:
        self._behind = False
        self.redraw()
        self.scroll_end(animate=False)

    def fill(self, told: Sequence[tuple[float, str, str]]) -> None:
        """Show these (moment, text, style) instead."""
        self._events = []
        for wall, text, style in told:
            stamp = time.strftime("%m-%d %H:%M:%S ", time.localtime(wall))
            self._events.append(line((stamp, "dim"), (text, style)))
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """Keep the newest in sight."""
        super().on_resize(event)
        self.scroll_end(animate=False)

    @property
    def lines(self) -> list[Line]:
        """All of them."""
        return list(self._events)

    def compose_lines(self, width: int) -> Sequence[Line]:
        """As many as are kept."""
        return self._events
