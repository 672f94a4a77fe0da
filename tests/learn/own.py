"""Prompts of our own: `prompts/*.txt`, a task at the head of each section, slots in braces filled from lists."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.routing.table import TASKS

FOLDER = Path(__file__).parent / "prompts"
FILLS = 3
"""How often a line with slots is filled; lines without are taken once."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its task; `source` is the set it is left out with, `lang` its language."""

    text: str
    task: str
    source: str
    lang: str


def own() -> Iterator[Prompt]:
    """All prompts of our own, the same ones in every run."""
    for path in sorted(FOLDER.glob("*.txt")):
        chance = random.Random(path.stem)
        slots: dict[str, list[str]] = {}
        task = ""
        for line in path.read_text("utf-8").splitlines():
            if line.startswith("= "):
                name, _, values = line[2:].partition(": ")
                slots[name] = values.split(" | ")
            elif line.startswith("# ") and line.split()[1] in TASKS:
                task = line.split()[1]
            elif line:
                for text in dict.fromkeys(_filled(line, slots, chance) for _ in range(FILLS)):
                    yield Prompt(text, task, f"own {path.stem} {task}", path.stem)


def _filled(line: str, slots: dict[str, list[str]], chance: random.Random) -> str:
    def meant(found: re.Match[str]) -> str:
        return chance.choice(slots[found[1]]) if found[1] else {"\\n": "\n", "\\\\": "\\"}.get(found[0], found[0][0])

    return re.sub(r"\{\{|\}\}|\\\\|\\n|\{(\w+)\}", meant, line)
