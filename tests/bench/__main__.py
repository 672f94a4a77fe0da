"""`make bench`: one table of budgets, each beside its yardstick measured in the same run; exit 1 when one is missed.

`python -m tests.bench NAME ...` measures some of them. The table on stdout is that of docs/performance.md; what is
said meanwhile goes to stderr.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.bench.classifying import classifying
from tests.bench.cluster import cluster
from tests.bench.keys import slowest
from tests.bench.memory import memory
from tests.bench.probes import probes
from tests.bench.rows import HEAD, Row
from tests.bench.scale import scale
from tests.bench.starts import TOGETHER, timings
from tests.bench.terminal import PYTHON, Terminal, environment
from tests.lab.cache import missing
from tests.tui.sample import TOML

ROUNDS = 9
"""Of so many starts the quickest counts, as `timeit` does it: the rest is what the machine did besides."""


def first_frame(folder: Path) -> Iterator[Row]:
    """From the command to a frame that names every tier, against a bare Textual application."""
    folder.mkdir()
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
        yield Row("idle bytes, 50 endpoints, 16 GPUs, 10 containers", count / seconds / 1000, None, 1.0, "KB/s")
        yield Row("idle CPU, the same", 100 * cpu / seconds, None, 6.0, "% of a core")
        yield Row("key to screen meanwhile, 99th percentile", 1000 * slowest(terminal), None, 30.0, "ms")


def start_queue() -> Iterator[Row]:
    """Five containers that deadlock when they start together, started by the queue; needs the lab's parts."""
    if reasons := [reason for part in ("docker", "sshd", "llamacpp") if (reason := missing(part))]:
        print(f"start queue: not measured: {reasons[0]}", file=sys.stderr)
        return
    seen = timings()
    yield Row(f"of five started together, serving after {TOGETHER:g} s", seen.served_together, None, 0.0, "of 5")
    yield Row(
        "start queue of five, against ready times and gaps",
        seen.procedure,
        seen.unavoidable,
        1.05 * seen.unavoidable,
        "s",
    )
    print(f"the whole of `tierdeck queue run`, start and plan included: {seen.command:.3f} s", file=sys.stderr)


MEASURES: Final[Mapping[str, Callable[[Path], Iterator[Row]]]] = {
    "first-frame": first_frame,
    "version": lambda folder: version(),
    "idle": idle,
    "probe": probes,
    "scale": scale,
    "classify": lambda folder: classifying(),
    "queue": lambda folder: start_queue(),
    "memory": memory,
}
"""What can be measured alone, by name; each may make the folder that it is given."""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure (all): {', '.join(MEASURES)}")
    names = parser.parse_args().names or list(MEASURES)
    if unknown := [name for name in names if name not in MEASURES]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(MEASURES)}")
    began, rows = time.monotonic(), list[Row]()
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="tierdeck-bench-") as folder:
        for name in names:
            since = time.monotonic()
            for row in MEASURES[name](Path(folder, name)):
                print(row.markdown, flush=True)
                rows.append(row)
            print(f"{name}: measured in {time.monotonic() - since:.0f} s", file=sys.stderr)
    missed = sum(not row.kept for row in rows)
    print(f"{missed} of {len(rows)} budgets missed; {time.monotonic() - began:.0f} s in all", file=sys.stderr)
    return 1 if missed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
