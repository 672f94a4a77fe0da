"""How long a key takes to show on the screen."""

from __future__ import annotations

import time

from tests.bench.terminal import Terminal

LIMIT = 1.0
"""Seconds after which a key counts as unanswered; it is measured as that."""


def slowest(terminal: Terminal) -> float:
    """Seconds from a key to the screen, the 99th percentile of two hundred."""
    return sorted(_delay(terminal, key) for key in "jk" * 100)[197]


def _delay(terminal: Terminal, key: str) -> float:
    terminal.read(0.03)
    began = time.perf_counter()
    terminal.send(key)
    terminal.read_some(LIMIT)
    return time.perf_counter() - began
