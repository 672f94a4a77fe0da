"""The dialog before anything that changes the world: the exact commands, what they interrupt, Cancel focused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from widgets.format import plain


class ConfirmScreen(ModalScreen[bool]):
    """Asks yes or no; where `typed` is given, that word must be typed for a yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(False)", "cancel", show=False),
        Binding("left,h", "app.focus_previous", show=False),
        Binding("right,l", "app.focus_next", show=False),
    ]
    DEFAULT_CSS = """
    ConfirmScreen { align: center middle; }
    ConfirmScreen > Vertical {
        width: 90%; max-width: 110; height: auto; max-height: 90%; border: thick $warning; background: $surface;
        padding: 0 1;
    }
    ConfirmScreen VerticalScroll { height: auto; max-height: 60vh; }
    ConfirmScreen .title { text-style: bold; width: 100%; }
    ConfirmScreen Static { width: 100%; height: auto; }
    ConfirmScreen Horizontal { height: 3; align-horizontal: right; }
    ConfirmScreen Button { margin: 0 1; }
    """

    def __init__(self, title: str, lines: Sequence[str], yes: str, *, typed: str | None = None) -> None:
        super().__init__()
        self._title = title
        self._text = "\n".join(plain(each) for each in lines)
        self._yes = yes
        self._typed = typed

    def compose(self) -> ComposeResult:
        """Title, commands, the word to type if any, buttons."""
        with Vertical():
            yield Static(Content(plain(self._title)), classes="title")
            with VerticalScroll(can_focus=False):
                yield Static(Content(self._text))
            if self._typed is not None:
                yield Input(placeholder=f"type {self._typed} to go on", select_on_focus=False)
            with Horizontal():
                yield Button(Content("Cancel"), id="cancel", variant="primary")
                yield Button(Content(self._yes), id="yes", variant="warning", disabled=self._typed is not None)

    def on_mount(self) -> None:
        """Cancel has the focus: Enter by mistake does nothing."""
        self.query_one("#cancel", Button).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Let the yes be pressed once the word is right."""
        self.query_one("#yes", Button).disabled = event.value.strip() != self._typed

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer."""
        self.dismiss(event.button.id == "yes")
