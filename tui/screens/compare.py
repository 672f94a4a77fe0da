"""The same prompt to two or more endpoints, side by side, each with its own figures and its own end."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.screen import Screen

from backends.asking import ask
from backends.clock import Clock
from backends.engines.chat import Delta, Finished
from backends.engines.embed import Embedded
from backends.errors import TierdeckError
from backends.routing.choose import Decision
from tui.deciding import quoted
from widgets.answer import Answer
from widgets.bars import KeysBar
from widgets.format import model, plain
from widgets.glyphs import Glyphs

if TYPE_CHECKING:
    from backends.asking import Answer as Answered
    from backends.asking import AskEvent
    from backends.cluster.reading import ChatReading
    from backends.routing.choose import Candidate

DRAW_EVERY = 0.25
"""Seconds between two repaints of a column."""


class Column(Answer):
    """One endpoint's answer."""

    DEFAULT_CSS = """
    Column { border: round $foreground 30%; height: 1fr; width: 1fr; }
    Column:focus { border: round $primary; }
    Column.ascii { border: ascii $foreground 30%; }
    Column.ascii:focus { border: ascii $primary; }
    """

    def __init__(self, candidate: Candidate, glyphs: Glyphs) -> None:
        super().__init__(glyphs)
        self.candidate = candidate
        named = f" {model(candidate.model)}" if candidate.model else ""
        self.border_title = Content(plain(f"{candidate.endpoint}{named}"))


class CompareScreen(Screen[None]):
    """The first Esc cancels what still streams, the next closes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "back", show=False),
        Binding("ctrl+r", "fold", "reasoning", show=False),
    ]
    DEFAULT_CSS = """
    CompareScreen > Container { layout: horizontal; height: 1fr; }
    CompareScreen.-narrow > Container { layout: vertical; }
    """

    def __init__(
        self,
        text: str,
        candidates: Sequence[Candidate],
        answer: Callable[[Candidate], AsyncGenerator[Answered, None]],
        tell: Callable[[ChatReading], object],
        clock: Clock,
        glyphs: Glyphs,
    ) -> None:
        super().__init__()
        self._text, self._answer, self._tell, self._clock = text, answer, tell, clock
        self._columns = [Column(candidate, glyphs) for candidate in candidates]

    def compose(self) -> ComposeResult:
        """The columns and the keys."""
        with Container():
            yield from self._columns
        yield KeysBar()

    def on_mount(self) -> None:
        """Send to all at once."""
        keys = (("Tab", "next column"), ("j/k", "scroll"), ("Ctrl+R", "reasoning"), ("Esc", "cancel, then back"))
        self.query_one(KeysBar).show(keys)
        self._columns[0].focus()
        for column in self._columns:
            why = (f"{column.candidate.endpoint}: {column.candidate.reason}", "warn")
            column.begin((quoted(self._text), "title"), *([why] if column.candidate.cold else []))
            self.run_worker(self._stream(column), name=column.candidate.endpoint, exit_on_error=False)

    async def _stream(self, column: Column) -> None:
        """One endpoint's answer; its failure is its own, and is sent to nobody else."""
        chosen = column.candidate
        waiting: list[tuple[str, bool]] = []
        drawn = time.monotonic()
        asked = ask(lambda tried: Decision("", chosen.endpoint, (chosen,)), self._answer, self._tell, self._clock)
        try:
            async with aclosing(asked) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        waiting.append((event.text, event.reasoning))
                    if not isinstance(event, Delta) or time.monotonic() - drawn >= DRAW_EVERY:
                        column.put(waiting)
                        waiting.clear()
                        drawn = time.monotonic()
                    self._show(column, event)
        except TierdeckError as error:
            column.put(waiting)
            column.paragraph(str(error), "bad")

    @staticmethod
    def _show(column: Column, event: AskEvent) -> None:
        if isinstance(event, Finished):
            column.paragraph(event.words, "dim")
        elif isinstance(event, Embedded):
            column.paragraph(f"{event.dimensions} dimensions in {event.seconds * 1000:.0f} ms", "dim")

    def action_fold(self) -> None:
        """Show the reasoning, or hide it."""
        for column in self._columns:
            column.fold()

    def action_leave(self) -> None:
        """Cancel what streams; where nothing does, close."""
        streaming = [w for w in self.workers if w.node is self and w.is_running]
        if not streaming:
            self.app.pop_screen()
            return
        names = {worker.name for worker in streaming}
        for worker in streaming:
            worker.cancel()
        for column in self._columns:
            if column.candidate.endpoint in names:
                column.paragraph("cancelled", "warn")
