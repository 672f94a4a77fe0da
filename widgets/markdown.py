"""Markdown as lines, while it comes: headings, lists, quotes, code, bold; everything else stays the text it is.

Nothing in it is obeyed: it becomes lines of styled spans, as everything in a pane is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from rich.cells import cell_len, chop_cells

from widgets.glyphs import Glyphs
from widgets.lines import Line

KEPT: Final = 256 * 1024
"""How many characters of one text are kept; of a longer one the end."""

LONGEST: Final = 4096
"""Characters of one row of text; a longer one is cut, so that no single row costs more than this."""

Spans = list[tuple[str, str]]

_FENCE: Final = re.compile(r"\s*(```|~~~)\s*([\w+#.-]*)")
_HEADING: Final = re.compile(r"\s{0,3}#{1,6}\s+(.*?)\s*#*$")
_RULE: Final = re.compile(r"\s{0,3}([-*_])(\s*\1){2,}\s*$")
_ITEM: Final = re.compile(r"(\s*)([-*+]|\d{1,3}[.)])\s+(.*)")
_QUOTE: Final = re.compile(r"\s{0,3}>\s?(.*)")
_INLINE: Final = re.compile(r"(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__")


class Markdown:
    """A text that grows; rows that are complete are laid out once for each width."""

    def __init__(self, glyphs: Glyphs) -> None:
        self._bar = "| " if glyphs.border == "ascii" else "│ "
        self._bullet = "* " if glyphs.border == "ascii" else "• "
        self._rule = "-" if glyphs.border == "ascii" else "─"
        self._rows: list[str] = []
        self._rest = ""
        self._size = 0
        self._coded_before = False
        self._begin(0)

    def _begin(self, width: int) -> None:
        self._width, self._laid, self._code = width, 0, self._coded_before
        self._lines: list[Line] = []

    def add(self, text: str) -> None:
        """Append to the text."""
        *whole, self._rest = (self._rest + text).split("\n")
        while len(self._rest) > LONGEST:
            whole.append(self._rest[:LONGEST])
            self._rest = self._rest[LONGEST:]
        pieces = [row[at : at + LONGEST] for row in whole for at in range(0, max(1, len(row)), LONGEST)]
        self._rows += pieces
        self._size += sum(map(len, pieces)) + len(pieces)
        if self._size > KEPT:
            self._forget()

    def _forget(self) -> None:
        """Drop the older half, but remember whether it ended within code."""
        half = len(self._rows) // 2
        dropped, self._rows = self._rows[:half], self._rows[half:]
        self._size -= sum(map(len, dropped)) + len(dropped)
        self._coded_before ^= sum(1 for row in dropped if _FENCE.match(row)) % 2 == 1
        self._begin(self._width)

    def lines(self, width: int) -> list[Line]:
        """All of it at `width` cells."""
        if width != self._width:
            self._begin(width)
        for row in self._rows[self._laid :]:
            self._lines += self._row(row)
        self._laid = len(self._rows)
        code = self._code
        tail = list(self._row(self._rest)) if self._rest else []
        self._code = code
        return self._lines + tail

    def _row(self, row: str) -> Iterator[Line]:
        row = row.expandtabs(4)
        if fence := _FENCE.match(row):
            self._code = not self._code
            if self._code and fence[2]:
                yield Line(((self._bar, "dim"), (fence[2], "dim")))
        elif self._code:
            for piece in chop_cells(row, max(1, self._width - 2)) or [""]:
                yield Line(((self._bar, "dim"), (piece, "accent")))
        elif heading := _HEADING.match(row):
            yield from wrapped([(text, "title") for text, _ in _inline(heading[1])], self._width)
        elif _RULE.match(row):
            yield Line(((self._rule * self._width, "dim"),))
        elif item := _ITEM.match(row):
            mark = self._bullet if item[2] in "-*+" else f"{item[2]} "
            first = item[1][: self._width // 3] + mark
            yield from wrapped(_inline(item[3]), self._width, first, " " * len(first))
        elif quote := _QUOTE.match(row):
            yield from wrapped([(quote[1], "dim")], self._width, self._bar, self._bar)
        else:
            yield from wrapped(_inline(row), self._width)


def _inline(text: str) -> Spans:
    """The spans of a row: code and bold told apart."""
    spans: Spans = []
    at = 0
    for found in _INLINE.finditer(text):
        spans.append((text[at : found.start()], ""))
        spans.append((found[2], "accent") if found[1] else (found[3] or found[4], "title"))
        at = found.end()
    return [span for span in (*spans, (text[at:], "")) if span[0]]


def wrapped(spans: Iterable[tuple[str, str]], width: int, first: str = "", then: str = "") -> Iterator[Line]:
    """Spans as lines of at most `width` cells, broken at blanks where there are any; `first` and `then` lead them."""
    lead, used = first, cell_len(first)
    row: Spans = []
    for word, style in _words(spans):
        wide = cell_len(word)
        if used + wide > width and row:
            yield _line(lead, row)
            lead, row, used = then, [], cell_len(then)
            word = word.lstrip(" ")
            wide = cell_len(word)
        room = max(1, width - used)
        if wide > room:
            *full, word = chop_cells(word, room) or [""]
            for piece in full:
                yield _line(lead, [(piece, style)])
                lead = then
            used, wide = cell_len(lead), cell_len(word)
        if word:
            row.append((word, style))
            used += wide
    yield _line(lead, row)


def _words(spans: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Each word with the blanks before it, in the style of its span."""
    for text, style in spans:
        for word in re.findall(r" *[^ ]+| +$", text):
            yield word, style


def _line(lead: str, row: Spans) -> Line:
    """One line, neighbours of the same style joined."""
    spans: Spans = [(lead, "dim")] if lead else []
    for text, style in row:
        if spans and spans[-1][1] == style and len(spans) > bool(lead):
            spans[-1] = (spans[-1][0] + text, style)
        else:
            spans.append((text, style))
    return Line(tuple(spans))
