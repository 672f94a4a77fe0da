"""A line at the bottom that asks for words: the filter, or the name of an action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static


class AskScreen(ModalScreen[str | None]):
    """Dismissed with the text, or None on Esc; `live` hears every change."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "cancel", show=False)]
    DEFAULT_CSS = """
    AskScreen { align: left bottom; background: transparent; }
    AskScreen > Vertical { height: auto; background: $surface; }
    AskScreen Static { height: auto; padding: 0 1; color: $text-muted; }
    AskScreen Input { height: 1; background: $surface; padding: 0 1; }
    AskScreen Input, AskScreen Input:focus { border: none; }
    """

    def __init__(
        self,
        prompt: str,
        *,
        value: str = "",
        words: Sequence[str] = (),
        live: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self._input = Input(
            value=value, placeholder=prompt, suggester=SuggestFromList(words) if words else None, select_on_focus=False
        )
        self._input.cursor_blink = False
        self._live = live
        self._prompt = prompt

    def compose(self) -> ComposeResult:
        """One line; above it what is asked, where the line is filled already or too short to show it."""
        with Vertical():
            if self._input.value or len(self._prompt) > self.app.size.width - 2:
                yield Static(self._prompt, markup=False)
            yield self._input

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell whoever listens."""
        if self._live is not None:
            self._live(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Done."""
        self.dismiss(event.value)
