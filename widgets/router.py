"""Pane 4: a prompt, who will answer it and why, and the answer as it streams in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import chop_cells
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import TextArea

from backends.cluster.words import TASKS
from widgets.format import fit
from widgets.glyphs import Glyphs
from widgets.lines import Line, LinePane, line

KEPT = 256 * 1024
"""How many characters of answers stay on the screen."""


class Prompt(TextArea):
    """Where a prompt is typed: Enter sends, Ctrl+J breaks the line, Ctrl+T forces a task, Esc cancels, then leaves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "send", show=False, priority=True),
        Binding("ctrl+j", "break", "new line", show=False, priority=True),
        Binding("ctrl+t", "task", "task", show=False, priority=True),
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

    class TaskWanted(Message):
        """The next task is to be forced."""

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

    def action_task(self) -> None:
        """Force the next task."""
        self.post_message(self.TaskWanted())

    def action_leave(self) -> None:
        """Cancel, or leave."""
        self.post_message(self.Left())

    def action_recall(self, step: int) -> None:
        """Bring back an earlier prompt."""
        if self._earlier:
            self._at = max(0, min(len(self._earlier) - 1, self._at + step))
            self.load_text(self._earlier[self._at])


class Answer(LinePane):
    """The conversation, wrapped to the pane; long ones keep their end."""

    DEFAULT_CSS = "Answer, Answer:focus, Answer.ascii, Answer.ascii:focus { border: none; height: 1fr; }"

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(id="answer", glyphs=glyphs)
        self._parts: list[tuple[str, str]] = []

    def begin(self, *parts: tuple[str, str]) -> None:
        """Start a new exchange with these (text, style) paragraphs."""
        self._parts = list(parts)
        self._flow()

    def put(self, text: str, style: str = "") -> None:
        """Append to the last paragraph of this style, or begin one."""
        if self._parts and self._parts[-1][1] == style:
            self._parts[-1] = ((self._parts[-1][0] + text)[-KEPT:], style)
        else:
            self._parts.append((text, style))
        self._flow()

    def paragraph(self, text: str, style: str = "") -> None:
        """Begin a paragraph of its own."""
        self._parts.append((text, style))
        self._flow()

    def _flow(self) -> None:
        at_end = self.scroll_offset.y >= self.max_scroll_y
        self.redraw()
        if at_end:
            self.scroll_end(animate=False)

    def compose_lines(self, width: int) -> Sequence[Line]:
        """Every paragraph, wrapped at words where that is possible."""
        return [
            line((piece, style))
            for text, style in self._parts
            for row in text.split("\n")
            for piece in wrap(row, width)
        ]


def wrap(text: str, width: int) -> list[str]:
    """One line of text as rows of at most `width` cells."""
    rows: list[str] = []
    row = ""
    for word in text.expandtabs(4).split(" "):
        joined = f"{row} {word}" if row else word
        if len(joined) <= width // 2 or len(chop_cells(joined, width)) <= 1:
            row = joined
            continue
        if row:
            rows.append(row)
        *full, row = chop_cells(word, width) or [""]
        rows += full
    return [*rows, row]


class RouterPane(Vertical):
    """The prompt, the decision, the answer."""

    DEFAULT_CSS = """
    RouterPane { border: round $foreground 30%; border-title-color: $foreground; background: $background; }
    RouterPane:focus-within { border: round $primary; border-title-style: bold; }
    RouterPane.ascii { border: ascii $foreground 30%; }
    RouterPane.ascii:focus-within { border: ascii $primary; }
    RouterPane > #prompt { height: auto; max-height: 6; min-height: 1; border: none; padding: 0; background: $surface; }
    RouterPane > #decision { height: auto; max-height: 4; border: none; }
    """

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="ascii" if glyphs.border == "ascii" else None)
        self.border_title = "4 Router"
        self.glyphs = glyphs
        self.forced: str | None = None
        self.streaming = False

    def compose(self) -> ComposeResult:
        """Prompt above, then decision, then answer."""
        yield Prompt()
        yield Decided(self.glyphs)
        yield Answer(self.glyphs)

    def on_mount(self) -> None:
        """Say how to begin."""
        self.hint()

    def hint(self) -> None:
        """Say how to begin, instead of a decision."""
        self.decide("type a prompt; Enter sends, Ctrl+T forces a task, Esc leaves", "dim")

    @property
    def prompt(self) -> Prompt:
        """The text field."""
        return self.query_one(Prompt)

    @property
    def answer(self) -> Answer:
        """The answer."""
        return self.query_one(Answer)

    def decide(self, words: str, style: str, candidates: Sequence[tuple[str, str]] = ()) -> None:
        """Show who will answer, and the candidates as (words, style)."""
        self.query_one(Decided).put(words, style, candidates)

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
    """One line that says who answers, and below it why others were passed over."""

    DEFAULT_CSS = "Decided, Decided.ascii { border: none; height: auto; }"

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(id="decision", glyphs=glyphs)
        self._words: list[tuple[str, str]] = []

    def put(self, words: str, style: str, candidates: Sequence[tuple[str, str]]) -> None:
        """Show a decision."""
        rows = [(words, style), *candidates]
        if rows != self._words:
            if len(rows) != len(self._words):
                self.styles.height = max(1, min(4, len(rows)))
            self._words = rows
            self.redraw()

    def compose_lines(self, width: int) -> Sequence[Line]:
        """The decision, then the candidates."""
        return [line((fit(text, width, self.glyphs.ellipsis), style)) for text, style in self._words]
