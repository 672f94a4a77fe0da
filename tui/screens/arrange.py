"""Arranges a start queue before it is planned: which containers, in which order; nothing is done here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from widgets.bars import KeysBar
from widgets.glyphs import Glyphs
from widgets.lines import Line, LinePane, line


@dataclass(frozen=True, slots=True)
class Arranged:
    """What a person chose: the containers in their order, and whether those that are ready restart, too."""

    names: tuple[str, ...]
    restart: bool


@dataclass(frozen=True, slots=True)
class Startable:
    """One container that can be queued, with a word on how it is."""

    name: str
    word: str
    style: str


class ArrangePane(LinePane):
    """The containers with their marks."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "mark", show=False),
        Binding("J,shift+down", "shift(1)", "later", show=False),
        Binding("K,shift+up", "shift(-1)", "earlier", show=False),
        Binding("r", "restart", "restart", show=False),
    ]
    DEFAULT_CSS = "ArrangePane { height: 1fr; }"

    def __init__(self, title: str, found: Sequence[Startable], glyphs: Glyphs) -> None:
        super().__init__(glyphs=glyphs, title=title)
        self.found = list(found)
        self.marked = {each.name for each in found}
        self.restart = False

    def compose_lines(self, width: int) -> Sequence[Line]:
        """A line for each, in the order in which they would start."""
        rows = []
        for position, each in enumerate(self.found, 1):
            mark = "[x]" if each.name in self.marked else "[ ]"
            style = "" if each.name in self.marked else "dim"
            rows.append(line((f"{mark} {position}. {each.name:<24} ", style), (each.word, each.style), key=each.name))
        how = "restart, too (interrupts running work)" if self.restart else "left alone"
        return [*rows, line(""), line((f"What is ready already: {how}", "warn" if self.restart else "dim"))]

    def action_mark(self) -> None:
        """Take the container in, or leave it out."""
        if (name := self.selected) is not None:
            self.marked ^= {name}
            self.redraw()

    def action_shift(self, step: int) -> None:
        """Move it earlier or later."""
        at = next((i for i, each in enumerate(self.found) if each.name == self.selected), None)
        if at is not None and 0 <= at + step < len(self.found):
            self.found[at], self.found[at + step] = self.found[at + step], self.found[at]
            self.redraw()

    def action_restart(self) -> None:
        """Restart what is ready, too, or leave it alone."""
        self.restart = not self.restart
        self.redraw()


class ArrangeScreen(Screen[Arranged | None]):
    """Dismissed with what was arranged, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss(None)", "back", show=False)]

    def __init__(self, title: str, found: Sequence[Startable], glyphs: Glyphs) -> None:
        super().__init__()
        self._pane = ArrangePane(title, found, glyphs)

    def compose(self) -> ComposeResult:
        """The containers and the keys."""
        yield self._pane
        yield KeysBar()

    def on_mount(self) -> None:
        """Begin at the first."""
        self._pane.focus()
        keys = (("Enter", "plan"), ("space", "mark"), ("J/K", "order"), ("r", "restart ready ones"), ("Esc", "back"))
        self.query_one(KeysBar).show(keys)

    def on_line_pane_opened(self, message: LinePane.Opened) -> None:
        """Enter: plan what is marked."""
        message.stop()
        names = tuple(each.name for each in self._pane.found if each.name in self._pane.marked)
        self.dismiss(Arranged(names, self._pane.restart) if names else None)
