"""The estimator against llama.cpp itself: every architecture it knows, eight drawn models and settings of each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.rows import Row
from tests.lab.cache import llama_python, missing
from tests.memory.against import Difference, difference
from tests.memory.cases import ARCHITECTURES

EACH = 8
PRINTED = 0.0105
"""Two lines of the engine's log, of two decimals each, are off by so much from what it took."""


def memory(folder: Path) -> Iterator[Row]:
    """Prints a table by architecture to stderr; the rows are its worst."""
    if why := missing("llamacpp"):
        print(f"memory: not measured: {why}", file=sys.stderr)
        return
    folder.mkdir()
    found = asyncio.run(_all(folder))
    print(
        "| architecture | weights, MiB | KV, MiB | compute with flash attention | without | total, worst |",
        file=sys.stderr,
    )
    print("|---|---|---|---|---|---|", file=sys.stderr)
    for arch in ARCHITECTURES:
        own = [each for each in found if each.arch == arch]
        figures = (f"{_worst(own, what):.2f}" for what in ("weights", "kv", "flash", "plain"))
        print(f"| {arch} | {' | '.join(figures)} | {max(abs(each.share) for each in own):.2%} |", file=sys.stderr)
    shares = sorted(abs(each.share) for each in found)
    count = len(shares)
    yield Row(f"memory: weights, worst of {count}", _worst(found, "weights"), None, PRINTED, "MiB")
    yield Row("memory: KV, worst", _worst(found, "kv"), None, PRINTED, "MiB")
    yield Row("memory: compute with flash attention, worst", _worst(found, "flash"), None, 2.0, "MiB")
    yield Row("memory: compute without, worst", _worst(found, "plain"), None, 16.0, "MiB")
    yield Row("memory: totals, median", 100 * shares[count // 2], None, 0.5, "%")
    yield Row("memory: totals, 95th percentile", 100 * shares[int(0.95 * count)], None, 2.0, "%")
    yield Row("memory: totals under-predicted", sum(each.share < 0 for each in found), None, 0.0, f"of {count}")


async def _all(folder: Path) -> list[Difference]:
    return [
        await difference(llama_python(), arch, f"bench {number}", folder)
        for arch in ARCHITECTURES
        for number in range(EACH)
    ]


def _worst(found: Sequence[Difference], what: str) -> float:
    if what in ("flash", "plain"):
        return max((abs(each.compute) for each in found if each.flash == (what == "flash")), default=0.0)
    return float(max(abs(getattr(each, what)) for each in found))
