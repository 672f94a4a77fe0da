"""A page of lines over the dashboard: help, details, the event log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from widgets.bars import KeysBar
from widgets.glyphs import Glyphs
from widgets.lines import Line, LinePane


class Page(LinePane):
    """Lines that are asked for anew whenever they may have changed."""

    DEFAULT_CSS = "Page { height: 1fr; }"

    def __init__(self, title: str, compose: Callable[[int], Sequence[Line]], glyphs: Glyphs) -> None:
        super().__init__(glyphs=glyphs, title=title)
        self._compose_page = compose

    def compose_lines(self, width: int) -> Sequence[Line]:
        """What the owner says."""
        return self._compose_page(width)


class TextScreen(Screen[None]):
    """Shows a page; Esc closes it. `compose_page(width)` is asked again on every new snapshot."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back", show=False)]

    def __init__(
        self, title: str, compose_page: Callable[[int], Sequence[Line]], glyphs: Glyphs, *, at_end: bool = False
    ) -> None:
        super().__init__()
        self._page = Page(title, compose_page, glyphs)
        self._at_end = at_end

    def compose(self) -> ComposeResult:
        """The page and its keys."""
        yield self._page
        yield KeysBar()

    def on_mount(self) -> None:
        """Read from the end where that is the news."""
        self._page.focus()
        self.query_one(KeysBar).show((("Esc", "back"), ("j/k", "scroll"), ("g/G", "top/end"), ("h/l", "sideways")))
        if self._at_end:
            self.call_after_refresh(self._page.scroll_end, animate=False)

    def renew(self) -> None:
        """Compose the page again."""
        self._page.redraw()
