"""Softmax regression in plain Python: AdaGrad over single prompts, the same result in every run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt

from backends.routing.features import ROWS, features
from backends.routing.table import TASKS, shares

RATE = 0.2
ROUNDS = 6
KNOWN = 0.01
"""A prompt whose task is missed by less teaches nothing."""

BALANCE = 0.5
"""0 weighs prompts alike, 1 weighs whole sets alike."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt as the learner sees it: rows with their shares, its task's number, its set."""

    lit: tuple[tuple[int, float], ...]
    task: int
    source: str


def sample(text: str, task: str, source: str) -> Sample:
    """A prompt in the learner's form."""
    lit = tuple((row, share) for rows, share in shares(features(text)) for row in rows)
    return Sample(lit, TASKS.index(task), source)


def learn(samples: Sequence[Sample]) -> list[list[float]]:
    """A row of weights per feature, one for each task; what is known for certain already teaches nothing more."""
    width = range(len(TASKS))
    weights = [[0.0] * len(TASKS) for _ in range(ROWS)]
    squares = [[0.01] * len(TASKS) for _ in range(ROWS)]
    sizes = Counter(each.source for each in samples)
    mean = len(samples) / len(sizes)
    order = list(samples)
    chance = random.Random(7)
    for _ in range(ROUNDS):
        chance.shuffle(order)
        for each in order:
            off = likely(weights, each)
            off[each.task] -= 1.0
            if off[each.task] > -KNOWN:
                continue
            pull = (mean / sizes[each.source]) ** BALANCE
            for row, share in each.lit:
                mine, past = weights[row], squares[row]
                for task in width:
                    slope = pull * share * off[task]
                    past[task] += slope * slope
                    mine[task] -= RATE * slope / sqrt(past[task])
    return weights


def likely(weights: list[list[float]], each: Sample, heat: float = 1.0) -> list[float]:
    """How likely each task is by these weights."""
    scores = [0.0] * len(TASKS)
    for row, share in each.lit:
        for task, weight in enumerate(weights[row]):
            scores[task] += share * weight
    top = max(scores)
    powers = [exp((score - top) / heat) for score in scores]
    whole = sum(powers)
    return [power / whole for power in powers]
