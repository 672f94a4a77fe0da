"""What is worth a line of history: changes of verdicts, tiers and nodes, and the steps of procedures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from backends.cluster.changes import Change, changes
from backends.cluster.reading import Instant, ProcedureState
from backends.cluster.snapshot import ClusterSnapshot

KINDS: Final = ("endpoint", "tier", "node", "step", "gap")
"""What a line of history can be about; `step` is one of a procedure, `gap` says what could not be recorded."""

_STEP_WORDS: Final = {"done": "UP", "skipped": "UNKNOWN", "failed": "DOWN", "running": "DEGRADED"}
_ENDS: Final = {"done": "UP", "cancelled": "UNKNOWN", "asking": "DEGRADED"}


@dataclass(frozen=True, slots=True)
class Moment:
    """A line of history: `kind` is one of KINDS, `word` the verdict or state it came to, `node` where steps ran."""

    at: float
    kind: str
    subject: str
    word: str
    text: str


def moments(before: ClusterSnapshot, after: ClusterSnapshot) -> list[Moment]:
    """What changed between two snapshots, in the order in which it is told."""
    at = after.taken
    if at is None:
        return []
    found = [_of(change, after) for change in changes(before, after)]
    return [*found, *_steps(before.procedures, after.procedures, at)]


def _of(change: Change, after: ClusterSnapshot) -> Moment:
    verdict = change.text.startswith(f"{change.subject} -> ")
    kind = "node" if not verdict else "endpoint" if change.subject in after.endpoints else "tier"
    return Moment(change.at.wall, kind, change.subject, change.word, change.text)


def _steps(before: Iterable[ProcedureState], after: Iterable[ProcedureState], at: Instant) -> Iterator[Moment]:
    known = {p.id: p for p in before}
    for procedure in after:
        was = known.get(procedure.id)
        if was is None and not procedure.open:
            continue  # of an earlier day
        if was is None:
            yield _step(procedure, at, f"begun by {procedure.owner}", "DEGRADED")
        for i, step in enumerate(procedure.steps):
            then = was.steps[i].state if was is not None and i < len(was.steps) else "waiting"
            if step.state != then and step.state in _STEP_WORDS:
                words = f"{step.label} {step.state}" + (f": {step.detail}" if step.detail else "")
                yield _step(procedure, at, words, _STEP_WORDS[step.state])
        if was is not None and was.state != procedure.state:
            words = f"{procedure.state}: {procedure.question}" if procedure.question else procedure.state
            yield _step(procedure, at, words, _ENDS.get(procedure.state, "UNKNOWN" if procedure.open else "DOWN"))


def _step(procedure: ProcedureState, at: Instant, words: str, word: str) -> Moment:
    return Moment(at.wall, "step", procedure.node, word, f"{procedure.title}: {words}")
