"""Text from outside, made safe to show: it is data, never markup and never an escape sequence."""

from __future__ import annotations

from typing import Final

_UNSAFE: Final = dict.fromkeys(
    [
        *range(9),
        *range(11, 32),
        *range(127, 160),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    ]
)
"""Control characters but tab and line feed, direction overrides, and halves of surrogate pairs."""


def plain(text: str, limit: int = 160) -> str:
    """One line of printable characters, at most `limit` long; every other character becomes a space."""
    head = text[: 4 * limit + 4]
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return line if len(line) <= limit and len(head) == len(text) else line[: limit - 1].rstrip() + "…"


def safe(text: str) -> str:
    """The text with its lines and tabs, without what could move a cursor or turn the direction of writing."""
    return text.translate(_UNSAFE)
