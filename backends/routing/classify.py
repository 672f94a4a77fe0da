"""Tells the task of a prompt from what is attached and from a learned table of words and cues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backends.routing.features import Features, cue_name, features, is_followup
from backends.routing.table import COLUMNS, TASKS, WORD, Table, table

SURE: Final = 0.6
"""Below this confidence a conversation keeps its last task."""

UNCLEAR: Final = 0.45
"""Below this a prompt without a conversation is chat; between the two, guessing is right more often than chat is."""

EASY: Final = 0.3
"""How likely a prompt may be code or reason and still go to the fast tier, which would answer those badly."""


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
    task, second = judged(likely)
    confidence = round(likely[task], 2)
    if max(likely.values()) < SURE and last is not None and last != task:
        return Classified(last, confidence, task, (f"not sure it is {task}", "goes on with the conversation"))
    why = _why(weights, found, task) if likely[task] >= likely[second] else (f"not sure it is {second}",)
    return Classified(task, confidence, second, why or ("nothing speaks for another task",))


def judged(likely: dict[str, float]) -> tuple[str, str]:
    """The task to take and the next best: seldom fast for what may be hard, chat for what is not clear."""
    ranked = sorted(likely, key=lambda task: -likely[task])
    if ranked[0] == "fast" and likely["code"] + likely["reason"] > EASY:
        hard = max(("code", "reason"), key=lambda task: likely[task])
        ranked = [hard, "fast"]
    if likely[ranked[0]] < UNCLEAR and ranked[0] != "chat":
        return "chat", ranked[0]
    return ranked[0], ranked[1]


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
