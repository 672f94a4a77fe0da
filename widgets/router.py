"""Pane 4: a prompt, who will answer it and why, and the answer as it streams in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import TextArea

from backends.cluster.words import TASKS
from widgets.answer import Answer
from widgets.format import fit, plain
from widgets.glyphs import Glyphs
from widgets.lines import Line, LinePane, line

ROWS = 4
"""Lines of a decision in a pane that shares the screen; zoomed it has room for more."""

WANTED = {
    "ctrl+t": "task",
    "ctrl+g": "target",
    "ctrl+o": "image",
    "ctrl+n": "next",
    "ctrl+r": "reasoning",
    "ctrl+l": "anew",
    "ctrl+b": "bench",
    "ctrl+s": "compare",
}
"""Keys of the prompt that somebody else answers, and what each wants."""


class Prompt(TextArea):
    """Where a prompt is typed: Enter sends, Ctrl+J breaks the line, Esc cancels, then leaves; WANTED has the rest."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "send", show=False, priority=True),
        Binding("ctrl+j", "break", "new line", show=False, priority=True),
        *(Binding(key, f"want('{what}')", what, show=False, priority=True) for key, what in WANTED.items()),
        Binding("escape", "leave", "leave", show=False, priority=True),
        Binding("ctrl+up", "recall(-1)", "earlier", show=False),
        Binding("ctrl+down", "recall(1)", "later", show=False),
    ]

    class Sent(Message):
        """A prompt is to be sent."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Typed(Message):
        """The text changed, so the decision may have."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Wanted(Message):
        """A person wants one of WANTED."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    class Left(Message):
        """Esc was pressed."""

    def __init__(self) -> None:
        super().__init__(id="prompt", show_line_numbers=False, soft_wrap=True, compact=True)
        self.cursor_blink = False
        self._earlier: list[str] = []
        self._at = 0

    def action_send(self) -> None:
        """Send what was typed."""
        if text := self.text.strip():
            self._earlier = [*self._earlier[-99:], text]
            self._at = len(self._earlier)
            self.post_message(self.Sent(text))

    def action_break(self) -> None:
        """Begin a new line."""
        self.insert("\n")

    def action_want(self, what: str) -> None:
        """Pass on what is wanted."""
        self.post_message(self.Wanted(what))

    def action_leave(self) -> None:
        """Cancel, or leave."""
        self.post_message(self.Left())

    def action_recall(self, step: int) -> None:
        """Bring back an earlier prompt."""
        if self._earlier:
            self._at = max(0, min(len(self._earlier) - 1, self._at + step))
            self.load_text(self._earlier[self._at])


class RouterPane(Vertical):
    """The prompt, the decision, the answer."""

    DEFAULT_CSS = """
    RouterPane { border: round $foreground 30%; border-title-color: $foreground; background: $background; }
    RouterPane:focus-within { border: round $primary; border-title-style: bold; }
    RouterPane.ascii { border: ascii $foreground 30%; }
    RouterPane.ascii:focus-within { border: ascii $primary; }
    RouterPane > #prompt { height: auto; max-height: 6; min-height: 1; border: none; padding: 0; background: $surface; }
    RouterPane > #decision { height: auto; border: none; }
    """

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="ascii" if glyphs.border == "ascii" else None)
        self.border_title = "4 Router"
        self.glyphs = glyphs
        self.forced: str | None = None
        self._choices = ""

    def compose(self) -> ComposeResult:
        """Prompt above, then decision, then answer."""
        yield Prompt()
        yield Decided(self.glyphs)
        yield Answer(self.glyphs, id="answer")

    def on_mount(self) -> None:
        """Say how to begin."""
        self.hint()

    def hint(self) -> None:
        """Say how to begin, instead of a decision."""
        self.decide([("type a prompt; Enter sends, Ctrl+T forces a task, Esc leaves", "dim")])

    @property
    def prompt(self) -> Prompt:
        """The text field."""
        return self.query_one(Prompt)

    @property
    def answer(self) -> Answer:
        """The answer."""
        return self.query_one(Answer)

    def decide(self, rows: Sequence[tuple[str, str]]) -> None:
        """Show who will answer and why, as (words, style)."""
        self.query_one(Decided).put(rows)

    def mark(self, choices: str) -> None:
        """Show on the edge what was chosen beside the prompt."""
        if choices != self._choices:
            self._choices = choices
            self.border_subtitle = Content(plain(choices))

    def next_task(self) -> None:
        """Force the next task in turn: none, then each of the six."""
        order = [None, *TASKS]
        self.forced = order[(order.index(self.forced) + 1) % len(order)]

    def on_prompt_sent(self, message: Prompt.Sent) -> None:
        """Empty the field for the next one."""
        self.prompt.load_text("")

    def on_text_area_changed(self, message: TextArea.Changed) -> None:
        """Tell that the text changed."""
        message.stop()
        self.post_message(Prompt.Typed(self.prompt.text))

    def on_click(self, event: events.Click) -> None:
        """Type here."""
        self.prompt.focus()


class Decided(LinePane, can_focus=False):
    """Who answers, and below it why the others were passed over; as much of it as there is room for."""

    DEFAULT_CSS = "Decided, Decided.ascii { border: none; height: auto; }"

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(id="decision", glyphs=glyphs)
        self._rows: list[tuple[str, str]] = []
        self._high = 1

    @property
    def _room(self) -> int:
        """Rows there are: a third of a tall pane, else ROWS."""
        return max(ROWS, self.parent.size.height // 3 if isinstance(self.parent, RouterPane) else 0)

    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        """Show a decision."""
        found = list(rows)
        high = max(1, min(self._room, len(found)))
        if (found, high) != (self._rows, self._high):
            self._rows = found
            if high != self._high:
                self.styles.height = self._high = high
            self.redraw()

    def compose_lines(self, width: int) -> Sequence[Line]:
        """The decision, then the candidates; the last line counts those that have no room."""
        rows, room = self._rows, self._room
        if len(rows) > room:
            rows = [*rows[: room - 1], (f"  and {len(rows) - room + 1} more", "dim")]
        return [line((fit(text, width, self.glyphs.ellipsis), style)) for text, style in rows]
