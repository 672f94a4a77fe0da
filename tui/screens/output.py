"""The log of one container, as it comes; bounded, and closed with the screen."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from backends.errors import TierdeckError
from tui.screens.ask import AskScreen
from tui.screens.text import Page
from widgets.bars import KeysBar
from widgets.glyphs import Glyphs
from widgets.lines import Line, line

KEPT = 5000
"""How many log lines are kept."""

LONGEST = 2000
"""How many characters of one log line are kept."""

OpenLog = Callable[[], AbstractAsyncContextManager[AsyncIterator[str]]]


class OutputScreen(Screen[None]):
    """Follows a log until it is closed or ends."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen", "back", show=False),
        Binding("slash", "filter", "filter", show=False),
    ]

    def __init__(self, title: str, open_log: OpenLog, glyphs: Glyphs) -> None:
        super().__init__()
        self._open_log = open_log
        self._kept: deque[Line] = deque(maxlen=KEPT)
        self._page = Page(title, self._lines, glyphs)
        self._dirty = False

    def compose(self) -> ComposeResult:
        """The log and its keys."""
        yield self._page
        yield KeysBar()

    def on_mount(self) -> None:
        """Open the log; what came is drawn four times a second at the most."""
        self._page.focus()
        self.query_one(KeysBar).show((("Esc", "back"), ("/", "filter"), ("G", "follow"), ("h/l", "sideways")))
        self.set_interval(0.25, self._draw)
        self._follow()

    @work(exclusive=True, group="log", exit_on_error=False)
    async def _follow(self) -> None:
        try:
            async with self._open_log() as lines:
                async for text in lines:
                    self._put(text[:LONGEST], "")
            self._put("the log ended", "dim")
        except TierdeckError as error:
            self._put(str(error), "bad")

    def _put(self, text: str, style: str) -> None:
        self._kept.append(line((text, style)))
        self._dirty = True

    def _lines(self, width: int) -> Sequence[Line]:
        return list(self._kept) or [line(("nothing yet", "dim"))]

    def _draw(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        following = self._page.scroll_offset.y >= self._page.max_scroll_y - 1
        self._page.redraw()
        if following:
            self._page.scroll_end(animate=False)

    def action_filter(self) -> None:
        """Show only lines with these words."""
        self.app.push_screen(AskScreen("show only lines with", value=self._page.filter, live=self._set_filter))

    def _set_filter(self, words: str) -> None:
        self._page.filter = words.lower()
        self._page.redraw()
