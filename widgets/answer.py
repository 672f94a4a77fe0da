"""An answer as it streams in: paragraphs of ours, Markdown of the engine's, and its reasoning folded away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from widgets.glyphs import Glyphs
from widgets.lines import Line, LinePane, line
from widgets.markdown import Markdown, wrapped


class _Part(Protocol):
    def lines(self, width: int, folded: bool) -> list[Line]:
        """Its lines."""
        ...


class _Paragraph:
    """Words of the console's own, or the prompt."""

    def __init__(self, text: str, style: str) -> None:
        self._rows = text.expandtabs(4).split("\n")
        self._style = style
        self._laid: tuple[int, list[Line]] = (0, [])

    def lines(self, width: int, folded: bool) -> list[Line]:
        if self._laid[0] != width:
            self._laid = (width, [each for row in self._rows for each in wrapped([(row, self._style)], width)])
        return self._laid[1]


class _Said:
    """Words of the engine."""

    def __init__(self, glyphs: Glyphs) -> None:
        self.text = Markdown(glyphs)

    def lines(self, width: int, folded: bool) -> list[Line]:
        return self.text.lines(width)


class _Thought:
    """What the engine thinks before it answers."""

    def __init__(self, glyphs: Glyphs) -> None:
        self.text = Markdown(glyphs)
        self.size = 0

    def lines(self, width: int, folded: bool) -> list[Line]:
        head = line((f"thinking, {self.size} characters (Ctrl+R {'shows' if folded else 'hides'} it)", "dim"))
        if folded:
            return [head]
        return [head, *(line((each.text, "dim")) for each in self.text.lines(width))]


class Answer(LinePane):
    """One exchange, wrapped to the pane; its end is kept in sight until a person scrolls away from it."""

    DEFAULT_CSS = "Answer, Answer:focus, Answer.ascii, Answer.ascii:focus { border: none; height: 1fr; }"

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id, glyphs=glyphs)
        self.folded = True
        self._parts: list[_Part] = []
        self._follows = True

    def begin(self, *parts: tuple[str, str]) -> None:
        """Start a new exchange with these (text, style) paragraphs."""
        self._parts = [_Paragraph(text, style) for text, style in parts]
        self._follows = True
        self._flow()

    def put(self, pieces: Sequence[tuple[str, bool]]) -> None:
        """Append what the engine said, or thought (True)."""
        for text, thought in pieces:
            last = self._parts[-1] if self._parts else None
            if thought:
                if not isinstance(last, _Thought):
                    self._parts.append(last := _Thought(self.glyphs))
                last.size += len(text)
            elif not isinstance(last, _Said):
                self._parts.append(last := _Said(self.glyphs))
            assert isinstance(last, _Said | _Thought)
            last.text.add(text)
        self._flow()

    def paragraph(self, text: str, style: str = "") -> None:
        """Append words of the console's own."""
        self._parts.append(_Paragraph(text, style))
        self._flow()

    def fold(self) -> None:
        """Show the reasoning, or hide it again."""
        self.folded = not self.folded
        self._flow()

    def _flow(self) -> None:
        self._follows = self._follows or self.scroll_offset.y >= self.max_scroll_y
        self.redraw()

    def redraw(self) -> None:
        """Compose anew, and go to the end where that is followed: with less room it would be out of sight, too."""
        super().redraw()
        if self._follows:
            self.scroll_end(animate=False, immediate=True, force=True)

    def release_anchor(self) -> None:
        """A person scrolls: what comes meanwhile takes nothing away from under their eyes."""
        super().release_anchor()
        self._follows = False

    def compose_lines(self, width: int) -> Sequence[Line]:
        """Every part, one after the other."""
        return [each for part in self._parts for each in part.lines(width, self.folded)]
