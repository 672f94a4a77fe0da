"""How an endpoint bears several prompts at once: what will be sent is said first, then a small plot grows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from backends.engines.bench import LEVELS, TOKENS, Level, bench, rows
from backends.errors import TierdeckError
from tui.screens.text import Page
from widgets.bars import KeysBar
from widgets.glyphs import Glyphs
from widgets.lines import Line, line

if TYPE_CHECKING:
    from backends.engines.chat import ChatEvent
    from backends.routing.choose import Candidate


class BenchScreen(Screen[None]):
    """Enter begins, Esc ends it and closes every connection."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen", "back", show=False),
        Binding("enter", "begin", "begin", show=False, priority=True),
    ]

    def __init__(
        self,
        candidate: Candidate,
        send: Callable[[str, int], AsyncGenerator[ChatEvent, None]],
        glyphs: Glyphs,
    ) -> None:
        super().__init__()
        self._candidate, self._send, self._glyphs = candidate, send, glyphs
        self._page = Page(f"Bench of {candidate.endpoint}", self._lines, glyphs)
        self._levels: list[Level] = []
        self._state = ("Enter begins.", "accent")
        self._runs = False

    def compose(self) -> ComposeResult:
        """The plot and its keys."""
        yield self._page
        yield KeysBar()

    def on_mount(self) -> None:
        """Say what will be sent."""
        self._page.focus()
        self.query_one(KeysBar).show((("Enter", "begin"), ("Esc", "end")))

    def action_begin(self) -> None:
        """Begin, unless it runs."""
        if not self._runs:
            self._runs = True
            self.run_worker(self._bench(), exit_on_error=False)

    async def _bench(self) -> None:
        self._levels = []
        try:
            async with aclosing(bench(self._send)) as levels:
                self._say("it runs: one prompt at first", "accent")
                async for level in levels:
                    self._levels.append(level)
                    left = LEVELS[len(self._levels) :]
                    self._say(f"it runs: {left[0]} at once" if left else "done; Enter begins again", "accent")
            if self._levels and self._levels[-1].failed:
                self._say("ended where prompts failed; Enter begins again", "bad")
        except TierdeckError as error:
            self._say(f"{error} Enter begins again.", "bad")
        self._runs = False

    def _say(self, words: str, style: str) -> None:
        self._state = (words, style)
        self._page.redraw()

    def _lines(self, width: int) -> Sequence[Line]:
        levels = ", ".join(map(str, LEVELS))
        asked = f"{self._candidate.model or 'its model'}: {levels} prompts at once, {TOKENS} tokens each"
        waking = [line((self._candidate.reason, "warn"))] if self._candidate.cold else []
        block = "#" if self._glyphs.border == "ascii" else "█"
        plot = [line((row, "")) for row in rows(self._levels, width, block=block)]
        return [line((asked, "title")), *waking, line(""), *plot, line(""), line(self._state)]
