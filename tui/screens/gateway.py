"""The gateway's screen: its page, asked for anew by a key, and the push."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from backends.errors import TierdeckError
from tui.screens.text import Page
from widgets.bars import KeysBar
from widgets.gateway import GatewayPage, gateway_lines
from widgets.glyphs import Glyphs
from widgets.lines import Line, line


class GatewayScreen(Screen[None]):
    """Shows what `look` finds; `push` plans and asks, and is None where nothing may be changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen", "back", show=False),
        Binding("u", "look", "look again", show=False),
        Binding("p", "push", "push", show=False),
    ]

    def __init__(
        self,
        look: Callable[[], Awaitable[GatewayPage]],
        push: Callable[[], Awaitable[None]] | None,
        glyphs: Glyphs,
    ) -> None:
        super().__init__()
        self._look, self._push, self._glyphs = look, push, glyphs
        self._rows: Sequence[Line] = [line((f"looking at the gateway{glyphs.ellipsis}", "accent"))]
        self._page = Page("Gateway", lambda width: self._rows, glyphs)

    def compose(self) -> ComposeResult:
        """The page and its keys."""
        yield self._page
        yield KeysBar()

    def on_mount(self) -> None:
        """Look at once."""
        self._page.focus()
        keys = (("u", "look again"), *((("p", "push"),) if self._push else ()), ("j/k", "scroll"), ("Esc", "back"))
        self.query_one(KeysBar).show(keys)
        self.action_look()

    def action_look(self) -> None:
        """Look at the gateway, its file and the cluster."""
        self.run_worker(self._show(), group="gateway", exclusive=True, exit_on_error=False)

    def action_push(self) -> None:
        """Plan the push, show it and ask."""
        if self._push is not None:
            self.run_worker(self._push(), group="push", exclusive=True, exit_on_error=False)

    async def _show(self) -> None:
        try:
            self._rows = gateway_lines(await self._look())
        except TierdeckError as error:
            self._rows = [line((str(error), "bad"))]
        self._page.redraw()
