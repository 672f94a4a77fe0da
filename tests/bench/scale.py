"""A thousand endpoints on a hundred nodes, and how the cost grows from a tenth of that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cluster import cluster
from tests.bench.keys import slowest
from tests.bench.rows import Row
from tests.bench.terminal import PYTHON, Terminal, environment

SECONDS = 20.0
"""Of watching: four rounds of all endpoints."""
SETTLING = 40.0
"""Seconds after the first frame, until SSH, GPUs and libraries are all there."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a console takes: percent of a core, MB, and milliseconds from a key to the screen (99th percentile)."""

    cpu: float
    memory: float
    keys: float


def scale(folder: Path) -> Iterator[Row]:
    """The rows of 1,000 endpoints, and of the slope from 100 to 1,000."""
    folder.mkdir()
    few, many = (_cost(folder / str(count), nodes=count // 10, endpoints=count) for count in (100, 1000))
    yield Row("1,000 endpoints on 100 nodes at 5 s: CPU", many.cpu, few.cpu, 30.0, "% of a core")
    yield Row("the same against ten times that of 100 on 10", many.cpu, 10 * few.cpu, 10 * few.cpu, "% of a core")
    yield Row("the same: memory", many.memory, few.memory, 200.0, "MB")
    yield Row("the same: key to screen, 99th percentile", many.keys, few.keys, 30.0, "ms")


def _cost(folder: Path, *, nodes: int, endpoints: int) -> Cost:
    folder.mkdir()
    with (
        cluster(folder, nodes=nodes, gpus=1, endpoints=endpoints, containers=0, interval="5s") as found,
        Terminal([PYTHON, "-m", "tui.cli"], environment() | found) as terminal,
    ):
        terminal.until(["T0", "T3"], limit=60)
        terminal.read(SETTLING)
        cpu = terminal.cpu()
        terminal.read(SECONDS)
        cpu = terminal.cpu() - cpu
        return Cost(100 * cpu / SECONDS, terminal.memory() / 1e6, 1000 * slowest(terminal))
