"""llama.cpp's own dry run, `llama-fit-params --fit-print on`: how it is asked, and what it answers.

It lays everything out on the node's devices and loads nothing; figures are whole MiB, rounded down (common/fit.cpp).
"""

from __future__ import annotations

import re
from typing import Final

from backends.memory.arguments import llama_flags
from backends.memory.settings import Settings
from backends.memory.spoken import Buffers

PROGRAM: Final = "llama-fit-params"
ROUNDED: Final = 3 << 20
"""Bytes by which three figures of a device may be too small."""

_ROW: Final = re.compile(r"(\S{1,64}) (\d{1,9}) (\d{1,9}) (\d{1,9}) ?")


def command(path: str, settings: Settings) -> list[str]:
    """What is to be run where the file lies."""
    return [PROGRAM, "--model", path, *llama_flags(settings), "--fit-print", "on"]


def answer(text: str) -> tuple[Buffers, ...]:
    """What each device would hold, the host's memory last; nothing where that is no answer."""
    rows = [match for line in text.splitlines() if (match := _ROW.fullmatch(line.strip("\r")))]
    found = tuple(Buffers(row[1], float(row[2]), float(row[3]), float(row[4])) for row in rows)
    return found if found and not found[-1].on_gpu else ()
