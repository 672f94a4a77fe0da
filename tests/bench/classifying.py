"""How long the router takes to tell the task of a prompt: those of tests/learn, and one of a megabyte."""

from __future__ import annotations

import time
from collections.abc import Iterator

from backends.routing.classify import classify
from tests.bench.rows import Row
from tests.learn.own import own

ROUNDS = 9
"""Of so many the quickest counts: the rest is what the machine did besides."""


def classifying() -> Iterator[Row]:
    """The median and the 99th percentile of real prompts, and the slowest of three prompts of 1 MB."""
    texts = [prompt.text for prompt in own()][::7]
    classify(texts[0])
    seconds = sorted(map(_seconds, texts))
    yield Row("classify a prompt, median", 1000 * seconds[len(seconds) // 2], None, 0.3, "ms")
    yield Row("classify a prompt, 99th percentile", 1000 * seconds[int(len(seconds) * 0.99)], None, 2.0, "ms")
    large = [("error on line 12: no such file\n" * 33_000), ("漢字仮名" * 250_000), ("a_b=1;" * 170_000)]
    yield Row("classify a prompt of 1 MB, worst of 3", 1000 * max(map(_seconds, large)), None, 5.0, "ms")


def _seconds(text: str) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        classify(text)
        taken.append(time.perf_counter() - began)
    return min(taken)
