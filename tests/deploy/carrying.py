"""Carries a deployment out in this process, and has a step of it fail."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from backends.clock import SystemClock
from backends.cluster.files import load
from backends.errors import ProcedureError
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.opening import open_context
from backends.procedures.plan import Plan
from backends.procedures.runner import Ask, Control, Question, run


class Kept:
    """A journal in memory."""

    def __init__(self) -> None:
        self.events: list[StepEvent] = []

    def write(self, event: StepEvent) -> None:
        self.events.append(event)


async def carry_out(
    cluster: Path,
    plan: Plan,
    state: Path,
    *,
    kinds: Mapping[str, Any] = KINDS,
    ask: Ask | None = None,
    back: bool = False,
    control: Control | None = None,
) -> list[StepEvent]:
    """Carry it out as the runner's process does; what happened."""
    files = {str(s.arguments["file"]): str(s.arguments["text"]) for s in plan.steps if s.kind == "write_fragment"}
    inventory, kept = load(cluster, with_files=files).inventory, Kept()
    async with open_context(inventory, state) as context:
        events = run(
            plan, kinds, context, procedure="p", journal=kept, ask=ask, control=control or Control(),
            clock=SystemClock(), back=back,
        )  # fmt: skip
        async with aclosing(events):
            async for _ in events:
                pass
    return kept.events


def words(events: list[StepEvent]) -> str:
    return "\n".join(e.text for e in events)


def failing(at: int, plan: Plan, *, late: bool) -> Mapping[str, Any]:
    """The kinds, of which one step fails: instead of being applied, or after it was."""

    def kind_of(name: str) -> Any:
        def make(step: Any, context: Any) -> Any:
            kind = KINDS[name](step, context)
            if step == plan.steps[at]:

                async def fails(report: Any) -> Any:
                    raise ProcedureError("as the test wants it.")

                setattr(kind, "verify" if late else "apply", fails)
            return kind

        return make

    return {name: kind_of(name) for name in KINDS}


async def take_back(question: Question) -> str:
    assert "rollback" in question.choices
    return "rollback"
