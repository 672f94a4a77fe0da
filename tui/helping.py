"""The help page: the keys of where one is, wrapped to the width there is."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from tui.actions import PROMPT_KEYS, allowed, shown
from tui.setup import Setup
from widgets.lines import Line, line

LISTS: Final = (
    ("j k, arrows", "Move; g and G go to the ends; h and l shift long lines."),
    ("Enter", "Open; Esc goes back."),
)

NEVER: Final = (
    "Looking loads no model, wakes no machine and starts no container.",
    "Whatever changes the world is shown first, and runs only when confirmed.",
)

_KEYS: Final = 15
"""Cells for the keys."""


def help_page(setup: Setup, width: int, *, past: bool, missing: Mapping[str, str]) -> list[Line]:
    """All keys, grey with the `missing` right where there is one, and what is never done by itself."""
    rows: list[Line] = [line(("Keys", "title"))]
    for action in allowed(setup.read_only, past=past):
        keys = setup.keys.get(action.id) or ", ".join(shown(key) for key in action.keys)
        if words := missing.get(action.id):
            rows += _keyed(keys, words, width, style="dim")
        else:
            rows += _keyed(keys, action.help, width, action.command if width >= 100 else "")
    for title, keyed in (("In every list", LISTS), ("In the prompt", PROMPT_KEYS)):
        rows += [line(""), line((title, "title"))]
        rows += [row for keys, words in keyed for row in _keyed(keys, words, width)]
    rows += [line(""), line(("What is never done by itself", "title"))]
    return rows + [line(f"  {words}") for sentence in NEVER for words in textwrap.wrap(sentence, max(20, width - 2))]


def _keyed(keys: str, words: str, width: int, command: str = "", style: str = "") -> Iterator[Line]:
    first, *more = textwrap.wrap(words, max(20, width - _KEYS)) or [""]
    named = f"  ({command})" if command else ""
    yield line((f"  {keys:<{_KEYS - 3}} ", style or "accent"), (first, style), ("" if more else named, "dim"))
    for at, rest in enumerate(more, 1):
        yield line(" " * _KEYS, (rest, style), (named if at == len(more) else "", "dim"))
