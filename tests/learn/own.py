"""Prompts of our own: `prompts/*.txt`, a task at the head of each section, slots in braces filled from lists."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    held: str = ""
    """For prompts of our own: the section they stand in."""


def own() -> Iterator[Prompt]:
    """All prompts of our own, the same ones in every run."""
    for path in sorted(FOLDER.glob("*.txt")):
        chance = random.Random(path.stem)
        slots: dict[str, list[str]] = {}
        section = ""
        for line in path.read_text("utf-8").splitlines():
            if line.startswith("= "):
                name, _, values = line[2:].partition(": ")
                slots[name] = values.split(" | ")
            elif line.startswith("# ") and line.split()[1] in ("code", "reason", "chat", "fast"):
                section = line[2:]
            elif line:
                task = section.split()[0]
                for text in dict.fromkeys(_filled(line, slots, chance) for _ in range(FILLS)):
                    yield Prompt(text, task, f"own {path.stem}", path.stem, section)


def _filled(line: str, slots: dict[str, list[str]], chance: random.Random) -> str:
    text = line.replace("{{", "\0").replace("}}", "\1")
    text = re.sub(r"\{(\w+)\}", lambda slot: chance.choice(slots[slot[1]]), text)
    return text.replace("\0", "{").replace("\1", "}").replace("\\n", "\n")
