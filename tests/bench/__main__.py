"""`make bench`: one table of budgets, each beside its yardstick measured in the same run; exit 1 when one is missed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.classifying import classifying
from tests.bench.cluster import cluster
from tests.bench.keys import slowest
from tests.bench.memory import memory
from tests.bench.probes import probes
from tests.bench.rows import Row
from tests.bench.scale import scale
from tests.bench.starts import TOGETHER, timings
from tests.bench.terminal import PYTHON, Terminal, environment
from tests.lab.cache import missing
from tests.tui.sample import TOML

ROUNDS = 9
"""Of so many starts the quickest counts, as `timeit` does it: the rest is what the machine did besides."""


def first_frame(folder: Path) -> Iterator[Row]:
    """From the command to a frame that names every tier, against a bare Textual application."""
    path = folder / "cluster.toml"
    path.write_text(TOML)
    env = environment() | {"TIERDECK_STATE": str(folder / "state")}
    words = ["LOCAL", "REMOTE", "NAS", "GATEWAY"]

    def seconds(argv: list[str]) -> float:
        with Terminal(argv, env) as terminal:
            return terminal.until(words)

    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(seconds([PYTHON, "tests/bench/bare.py"]))
        ours.append(seconds([PYTHON, "-m", "tui.cli", "--cluster", str(path)]))
    yardstick = min(bare)
    yield Row("first frame naming every tier", min(ours), yardstick, yardstick + 0.3, "s")


def version() -> Iterator[Row]:
    """`tierdeck --version` against a bare interpreter."""

    def seconds(argv: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run([PYTHON, *argv], env=environment(), check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(seconds(["-c", "pass"]))
        ours.append(seconds(["-m", "tui.cli", "--version"]))
    yardstick = min(bare)
    yield Row("tierdeck --version", min(ours), yardstick, yardstick + 0.1, "s")


def idle(folder: Path, seconds: float = 30.0) -> Iterator[Row]:
    """An idle console over SSH: bytes and CPU, and keys to the screen meanwhile."""
    folder.mkdir()
    with (
        cluster(folder, nodes=8, gpus=2, endpoints=50, containers=10) as found,
        Terminal([PYTHON, "-m", "tui.cli"], environment() | found) as terminal,
    ):
        terminal.until(["HEALTHY all"], limit=60)
        terminal.read(10)
        cpu = terminal.cpu()
        count = terminal.read(seconds)
        cpu = terminal.cpu() - cpu
        yield Row("idle bytes, 50 endpoints, 16 GPUs, 10 containers", count / seconds / 1000, 0.0, 1.0, "KB/s")
        yield Row("idle CPU, the same", 100 * cpu / seconds, 0.0, 6.0, "% of a core")
        yield Row("key to screen meanwhile, 99th percentile", 1000 * slowest(terminal), 0.0, 30.0, "ms")


def start_queue() -> Iterator[Row]:
    """Five containers that deadlock when they start together, started by the queue; needs the lab's parts."""
    if reasons := [reason for part in ("docker", "sshd", "llamacpp") if (reason := missing(part))]:
        print(f"start queue: not measured: {reasons[0]}", file=sys.stderr)
        return
    seen = timings()
    yield Row(f"of five started together, serving after {TOGETHER:g} s", seen.served_together, 0.0, 0.0, "of 5")
    yield Row(
        "start queue of five, against ready times and gaps",
        seen.procedure,
        seen.unavoidable,
        1.05 * seen.unavoidable,
        "s",
    )
    print(f"the whole of `tierdeck queue run`, start and plan included: {seen.command:.3f} s", file=sys.stderr)


def main() -> int:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="tierdeck-bench-") as name:
        folder = Path(name)
        rows = [*first_frame(folder), *version(), *idle(folder / "idle"), *probes(folder / "probes")]
        rows += [*scale(folder / "scale"), *classifying(), *start_queue(), *memory(folder / "memory")]
    print(f"{'what':<50} {'measured':>10} {'yardstick':>10} {'limit':>10}")
    for row in rows:
        verdict = "" if row.kept else "  MISSED"
        figures = f"{row.measured:>10.3f} {row.yardstick:>10.3f} {row.limit:>10.3f}"
        print(f"{row.what:<50} {figures} {row.unit}{verdict}")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
