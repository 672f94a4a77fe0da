"""A pane of lines that repaints only the lines that changed: what keeps an idle console quiet on the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from widgets.format import plain
from widgets.glyphs import UNICODE, Glyphs


@dataclass(frozen=True, slots=True)
class Line:
    """One line: spans of (text, style name), and what it is about; a line about nothing cannot be selected.

    Style names: "", dim, good, warn, bad, accent, title.
    """

    spans: tuple[tuple[str, str], ...]
    key: str | None = None

    @property
    def text(self) -> str:
        """Its words alone."""
        return "".join(text for text, _ in self.spans)


def line(*spans: str | tuple[str, str], key: str | None = None) -> Line:
    """A line from spans; a bare string has no style."""
    return Line(tuple((span, "") if isinstance(span, str) else span for span in spans), key)


class LinePane(ScrollView, can_focus=True):
    """Shows lines, keeps a cursor on those that can be selected, and repaints by difference.

    A subclass turns its slice into lines in `compose_lines(width)`; it is asked again when the width changes.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "pane--dim",
        "pane--good",
        "pane--warn",
        "pane--bad",
        "pane--accent",
        "pane--title",
        "pane--cursor",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
        Binding("pagedown,ctrl+d", "move(10)", show=False),
        Binding("pageup,ctrl+u", "move(-10)", show=False),
        Binding("home,g", "edge(-1)", show=False),
        Binding("end,G", "edge(1)", show=False),
        Binding("left,h", "sideways(-8)", show=False),
        Binding("right,l", "sideways(8)", show=False),
        Binding("enter", "open", show=False),
    ]
    DEFAULT_CSS = """
    LinePane {
        border: round $foreground 30%; border-title-color: $foreground; border-subtitle-color: $text-accent;
        padding: 0; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; scrollbar-gutter: stable;
        scrollbar-color: $foreground 30%; scrollbar-background: $background; overflow-x: hidden;
        background: $background;
    }
    LinePane:focus { border: round $primary; border-title-style: bold; }
    LinePane.ascii { border: ascii $foreground 30%; scrollbar-size-vertical: 0; scrollbar-gutter: auto; }
    LinePane.ascii:focus { border: ascii $primary; }
    LinePane > .pane--dim { text-style: dim; }
    LinePane > .pane--good { color: $text-success; }
    LinePane > .pane--warn { color: $text-warning; }
    LinePane > .pane--bad { color: $text-error; text-style: bold; }
    LinePane > .pane--accent { color: $text-accent; }
    LinePane > .pane--title { text-style: bold; }
    LinePane > .pane--cursor { background: $primary 30%; text-style: bold; }
    """

    class Opened(Message):
        """A person wants the details of a line."""

        def __init__(self, pane: LinePane, key: str) -> None:
            super().__init__()
            self.pane = pane
            self.key = key

    class Selected(Message):
        """The cursor moved to another line."""

        def __init__(self, pane: LinePane, key: str | None) -> None:
            super().__init__()
            self.pane = pane
            self.key = key

    def __init__(self, *, id: str | None = None, glyphs: Glyphs = UNICODE, title: str = "") -> None:
        super().__init__(id=id, classes="ascii" if glyphs.border == "ascii" else None)
        self.glyphs = glyphs
        self.border_title = title
        self.filter = ""
        self.repainted = 0
        self._lines: list[Line] = []
        self._shown: list[Line] = []
        self._cursor: int | None = None
        self._width = 0

    def compose_lines(self, width: int) -> Sequence[Line]:
        """The lines of this pane's slice at `width` cells."""
        return self._lines

    @property
    def selected(self) -> str | None:
        """What the line under the cursor is about."""
        return self._shown[self._cursor].key if self._cursor is not None and self._cursor < len(self._shown) else None

    def redraw(self) -> None:
        """Compose the lines again and repaint those that differ."""
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        lines = list(self.compose_lines(width))
        if self.filter:
            lines = [each for each in lines if self.filter in each.text.lower()] or [line(("nothing matches", "dim"))]
        self._show(lines)

    def _show(self, lines: list[Line]) -> None:
        before, self._shown = self._shown, lines
        key = before[self._cursor].key if self._cursor is not None and self._cursor < len(before) else None
        cursor = self._cursor
        self._cursor = self._place(key)
        if len(lines) != len(before):
            self.virtual_size = Size(self.scrollable_content_region.width, len(lines))
        changed = {i for i, (new, old) in enumerate(zip_longest(lines, before)) if new is not old and new != old}
        if cursor != self._cursor:
            changed |= {i for i in (cursor, self._cursor) if i is not None}
        self._repaint(changed)

    def _repaint(self, rows: set[int]) -> None:
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        width = self.scrollable_content_region.width
        visible = [Region(0, row - top, width, 1) for row in rows if top <= row < top + height]
        if visible:
            self.repainted += len(visible)
            self.refresh(*visible)

    def _place(self, key: str | None) -> int | None:
        """The row of `key`: where it was, else the first; if it went, the nearest that can be selected."""
        at = self._cursor or 0
        if key is not None and at < len(self._shown) and self._shown[at].key == key:
            return at
        rows = [i for i, each in enumerate(self._shown) if each.key is not None]
        same = (i for i in rows if key is not None and self._shown[i].key == key)
        return next(same, min(rows, key=lambda i: abs(i - at), default=None))

    def render_line(self, y: int) -> Strip:
        """One visible line, with whatever a terminal could obey taken out."""
        row = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        base = self.rich_style
        if row >= len(self._shown):
            return Strip.blank(width, base)
        cursor = self.has_focus and row == self._cursor
        if cursor:
            base = base + self.get_component_rich_style("pane--cursor")
        segments = [Segment(plain(text), base + self._style(name, cursor)) for text, name in self._shown[row].spans]
        return Strip(segments).crop(self.scroll_offset.x).adjust_cell_length(width, base)

    def _style(self, name: str, cursor: bool) -> Style:
        if not name:
            return Style.null()
        style = self.get_component_rich_style(f"pane--{name}", partial=True)
        return Style(color=style.color, bold=style.bold, dim=style.dim) if cursor else style

    def on_resize(self, event: events.Resize) -> None:
        """Compose anew when there is more or less room."""
        self.redraw()
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._shown))

    def on_focus(self) -> None:
        """Show the cursor."""
        self._repaint({self._cursor} if self._cursor is not None else set())

    def on_blur(self) -> None:
        """Hide the cursor."""
        self._repaint({self._cursor} if self._cursor is not None else set())

    def action_move(self, step: int) -> None:
        """Move the cursor over the lines that can be selected, or scroll where there are none."""
        rows = [i for i, each in enumerate(self._shown) if each.key is not None]
        if not rows:
            self.scroll_relative(y=step, animate=False)
            return
        at = rows.index(self._cursor) if self._cursor in rows else 0
        self._go(rows[max(0, min(len(rows) - 1, at + step))])

    def action_edge(self, side: int) -> None:
        """Go to the first or the last line."""
        rows = [i for i, each in enumerate(self._shown) if each.key is not None]
        if rows:
            self._go(rows[0] if side < 0 else rows[-1])
        else:
            self.scroll_to(y=0 if side < 0 else self.max_scroll_y, animate=False)

    def action_sideways(self, step: int) -> None:
        """Shift long lines left and right."""
        longest = max((cell_len(each.text) for each in self._shown), default=0)
        room = max(0, longest - self.scrollable_content_region.width)
        if (x := max(0, min(room, self.scroll_offset.x + step))) != self.scroll_offset.x:
            self.scroll_to(x=x, animate=False, force=True)
            self.refresh()

    def action_open(self) -> None:
        """Open the details of the selected line."""
        if (key := self.selected) is not None:
            self.post_message(self.Opened(self, key))

    def on_click(self, event: events.Click) -> None:
        """Select the line under the mouse; the second click opens it."""
        row = event.y - self.gutter.top + self.scroll_offset.y
        if 0 <= row < len(self._shown) and self._shown[row].key is not None:
            if row == self._cursor and event.chain > 1:
                self.action_open()
            self._go(row)

    def _go(self, row: int) -> None:
        before, self._cursor = self._cursor, row
        self._repaint({r for r in (before, row) if r is not None})
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        if row < top or row >= top + height:
            self.scroll_to(y=max(0, row if row < top else row - height + 1), animate=False)
        if before != row:
            self.post_message(self.Selected(self, self._shown[row].key))
