"""The learned table: what each feature of a prompt speaks for, in one byte each."""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from backends.routing.features import ROWS, Features

TASKS: Final = ("code", "reason", "fast", "chat")
"""The tasks that a text can be; chat has no column of its own, the others are weighed against it."""

COLUMNS: Final = len(TASKS) - 1
CROSS: Final = 1.0
WORD: Final = 2.0
"""How much all crosses together, and all words together, count beside one cue."""


@dataclass(frozen=True, slots=True)
class Table:
    """`weights[row * COLUMNS + column]` in steps of `step`; `heat` divides the scores, so that confidence is honest."""

    weights: array[int]
    step: float
    heat: float

    def scores(self, found: Features) -> list[float]:
        """The score of each task, chat's being 0."""
        return [score * self.step for score in weigh(self.weights, found)] + [0.0]

    def probabilities(self, found: Features) -> list[float]:
        """How likely each task is; they sum to 1."""
        powers = [math.exp(score / self.heat) for score in self.scores(found)]
        whole = sum(powers)
        return [power / whole for power in powers]


def weigh(weights: array[int] | list[float], found: Features) -> list[float]:
    """The sum of the weights of a prompt's features, column by column."""
    sums = [0.0] * COLUMNS
    for rows, share in shares(found):
        for column in range(COLUMNS):
            sums[column] += share * sum([weights[row * COLUMNS + column] for row in rows])
    return sums


def shares(found: Features) -> tuple[tuple[tuple[int, ...] | dict[int, str], float], ...]:
    """The groups of features with the weight of one feature in each."""
    return (
        (found.cues, 1.0),
        (found.crosses, CROSS / math.sqrt(len(found.crosses) or 1)),
        (found.words, WORD / math.sqrt(len(found.words) or 1)),
    )


@cache
def table() -> Table:
    """The table that lies in the package, read once: a line of JSON, then the bytes."""
    head, _, body = (files(__package__) / "table.bin").read_bytes().partition(b"\n")
    facts = json.loads(head)
    weights = array("b", body)
    if len(weights) != ROWS * COLUMNS:
        raise ValueError(f"the router's table has {len(weights)} weights, {ROWS * COLUMNS} expected")
    return Table(weights, facts["step"], facts["heat"])
