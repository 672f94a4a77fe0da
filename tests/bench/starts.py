"""The start queue against five containers that deadlock when they start together, on real Docker."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from tests.bench.terminal import PYTHON, environment
from tests.lab.five import NAMES, Five, start_five

TOGETHER = 15.0
"""Seconds given to five started together: several times what the slowest needs alone."""
ROUNDS = 2
"""Of so many rounds the quickest counts, on both sides."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that the procedure took, that the command around it took, and that cannot be avoided."""

    procedure: float
    command: float
    unavoidable: float
    served_together: int


def timings(lock: float = 1.5, gap: float = 0.5) -> Timings:
    """Start the five together, as a rebooted Docker does, each alone, and all behind the gates.

    `lock` is how many seconds each holds the "driver".
    """
    with tempfile.TemporaryDirectory(prefix="td") as name, start_five(Path(name), lock=lock, gap=gap) as five:
        with stopped_again(five):
            with ThreadPoolExecutor(len(NAMES)) as at_once:
                list(at_once.map(partial(five.engine.docker, "start"), NAMES))
            time.sleep(TOGETHER)
            together = sum(map(five.serves, NAMES))
        alone, queued = [], []
        for turn in range(ROUNDS):
            with stopped_again(five):
                alone.append(sum(map(five.alone, NAMES)))
            with stopped_again(five):
                queued.append(queue(five, Path(name) / f"state{turn}"))
                assert all(map(five.serves, NAMES))
    procedure, command = min(queued)
    return Timings(procedure, command, min(alone) + gap * (len(NAMES) - 1), together)


@contextmanager
def stopped_again(five: Five) -> Iterator[None]:
    """None of the five runs before and after."""
    five.stop()
    yield
    five.stop()


def queue(five: Five, state: Path) -> tuple[float, float]:
    """Seconds from the first step's start to the end of the procedure, and of all of `tierdeck queue run`."""
    argv = [PYTHON, "-m", "tui.cli", "queue", "run", "mark", "--yes", "--json", "--cluster", str(five.here)]
    env = environment() | {"TIERDECK_STATE": str(state), "HOME": str(five.home)}
    began = time.monotonic()
    done = subprocess.run(argv, env=env, check=True, capture_output=True, timeout=300)
    command = time.monotonic() - began
    at = [datetime.fromisoformat(json.loads(line)["at"]) for line in done.stdout.splitlines()]
    return (at[-1] - at[0]).total_seconds(), command
