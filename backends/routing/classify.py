"""Tells the task of a prompt from what is attached and from a learned table of words and cues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backends.routing.features import Features, cue_name, features, is_followup
from backends.routing.table import COLUMNS, TASKS, WORD, Table, table

SURE: Final = 0.6
"""Below this confidence a conversation keeps its last task."""

SURE_FAST: Final = 0.7
"""Below this confidence nothing is sent to the fast tier, which would answer a hard prompt badly."""


@dataclass(frozen=True, slots=True)
class Classified:
    """The task of a prompt, how likely that is (0 to 1), the next best task, and the strongest cues in words."""

    task: str
    confidence: float
    runner_up: str | None
    why: tuple[str, ...]


def classify(text: str, *, image: bool = False, kind: str | None = None, last: str | None = None) -> Classified:
    """The task of a prompt, within milliseconds and the same each time.

    An attached `image` or an embedding call (`kind` "embed") decides at once. `last` is the conversation's last task:
    a short follow-up ("thanks", "go on") and a prompt that is not clear keep it.
    """
    if kind == "embed":
        return Classified("embed", 1.0, None, ("an embedding call",))
    if image:
        return Classified("vision", 1.0, None, ("an image is attached",))
    if last is not None and is_followup(text):
        return Classified(last, 1.0, None, ("goes on with the conversation",))
    weights = table()
    found = features(text)
    likely = dict(zip(TASKS, weights.probabilities(found), strict=True))
    ranked = sorted(TASKS, key=lambda task: -likely[task])
    best, second = ranked[:2]
    confidence = round(likely[best], 2)
    if confidence < SURE and last is not None:
        return Classified(last, confidence, best, (f"not sure it is {best}", "goes on with the conversation"))
    return Classified(best, confidence, second, _why(weights, found, best) or ("nothing speaks for another task",))


def _why(weights: Table, found: Features, task: str) -> tuple[str, ...]:
    """The three cues that speak most for a task against the others."""
    told: dict[str, float] = {}
    word = WORD / (len(found.words) or 1) ** 0.5
    for row in found.cues:
        if name := cue_name(row):
            told[name] = told.get(name, 0.0) + _speaks(weights, row, task)
    for row, text in found.words.items():
        told[f'"{text.strip("^$")}"'] = word * _speaks(weights, row, task)
    strongest = sorted(((value, name) for name, value in told.items() if value > 0), reverse=True)
    return tuple(name for _, name in strongest[:3])


def _speaks(weights: Table, row: int, task: str) -> float:
    """How far a row lifts a task above the mean of all."""
    steps = [*weights.weights[row * COLUMNS : (row + 1) * COLUMNS], 0]
    return (steps[TASKS.index(task)] - sum(steps) / len(steps)) * weights.step
