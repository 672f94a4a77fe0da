"""Chooses who answers: the task's chain in order, only those that serve, and why each other was passed over."""

from __future__ import annotations

from dataclasses import dataclass

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint of the chain: `outcome` is chosen, next or passed over, with the reason."""

    endpoint: str
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers a prompt of this task (None: nobody can), and every candidate with its reason."""

    task: str
    chosen: str | None
    candidates: tuple[Candidate, ...]

    @property
    def sentence(self) -> str:
        """The decision in a line."""
        passed = "; ".join(f"{c.endpoint} {c.reason}" for c in self.candidates if c.outcome == "passed over")
        if self.chosen is None:
            return f"nobody can serve {self.task}: {passed or 'no endpoint is assigned to it'}"
        return f"{self.chosen}" + (f" ({passed})" if passed else "")


def choose(inventory: Inventory, snapshot: ClusterSnapshot, task: str, *, target: str | None = None) -> Decision:
    """Choose for `task`; with `target` that endpoint is asked, whatever its health, because a person said so."""
    if target is not None:
        return Decision(task, target, (Candidate(target, "chosen", "you chose it"),))
    candidates: list[Candidate] = []
    serving = [n for n in inventory.chain(task) if snapshot.endpoints[n].serving]
    idle = [n for n in serving if snapshot.endpoints[n].cause is not Cause.BUSY]
    chosen = next(iter(idle or serving), None)
    for name in inventory.chain(task):
        state = snapshot.endpoints[name]
        if name == chosen:
            candidates.append(Candidate(name, "chosen", _words(state.cause)))
        elif state.serving and (chosen not in idle or name in idle):
            candidates.append(Candidate(name, "next", _words(state.cause)))
        else:
            candidates.append(Candidate(name, "passed over", _words(state.cause)))
    return Decision(task, chosen, tuple(candidates))


def _words(cause: Cause | None) -> str:
    return "not read yet" if cause is None else cause.value.lower().replace("_", " ")
