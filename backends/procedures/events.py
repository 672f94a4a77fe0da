"""What happens in a procedure, as events, and the pure fold that tells its state from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import JsonValue

from backends.cluster.reading import ProcedureState, StepState
from backends.errors import ProcedureError
from backends.procedures.plan import Plan
from backends.procedures.plan import from_json as plan_from_json

EVENTS: Final = (
    "created", "resumed", "step_started", "output", "step_done", "step_skipped", "step_failed", "question", "answer",
    "finished", "lost",
)  # fmt: skip
"""`lost` stands in no journal: a follower says it when the runner died without a word."""

OUTCOMES: Final = ("done", "failed", "cancelled", "halted")


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One thing that happened: `at` is Unix seconds, `step` the index of the step, `outcome` comes with finished.

    `detail` is JSON; its "text", where it has one, is a line for people.
    """

    at: float
    procedure: str
    event: str
    step: int | None = None
    detail: JsonValue = None
    outcome: str | None = None

    @property
    def text(self) -> str:
        """The line for people in `detail`, or ""."""
        found = self.detail.get("text") if isinstance(self.detail, Mapping) else self.detail
        return found if isinstance(found, str) else ""

    @property
    def command(self) -> str:
        """The exact call of the step that begins, where it has one."""
        return _word(self, "command")

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers to the question that it asks."""
        found = self.detail.get("choices") if isinstance(self.detail, Mapping) else None
        return tuple(word for word in found if isinstance(word, str)) if isinstance(found, list) else ()

    @property
    def log(self) -> list[str]:
        """The lines of a log that it carries."""
        found = self.detail.get("log") if isinstance(self.detail, Mapping) else None
        return [line for line in found if isinstance(line, str)] if isinstance(found, list) else []

    @property
    def waits_at(self) -> str:
        """The stage of the gate at which its step waits, where that is all it tells; "" for any other event."""
        if not isinstance(self.detail, Mapping) or "warning" in self.detail or "waited_s" not in self.detail:
            return ""
        return _word(self, "gate")

    def to_json(self) -> dict[str, Any]:
        """The event as a journal line, and as `--json` prints it."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {
            "at": at,
            "procedure": self.procedure,
            "event": self.event,
            "step": self.step,
            "detail": self.detail,
        }
        return line if self.outcome is None else {**line, "outcome": self.outcome}


def parse(line: bytes) -> StepEvent | None:
    """The event of one journal line; None for a line that was torn or damaged."""
    try:
        data = json.loads(line)
        at = datetime.fromisoformat(data["at"]).timestamp()
        procedure, event, step = data["procedure"], data["event"], data["step"]
        outcome = data.get("outcome")
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = isinstance(procedure, str) and event in EVENTS and outcome in (None, *OUTCOMES)
    if not sound or isinstance(step, bool) or not isinstance(step, int | None):
        return None
    return StepEvent(at, procedure, event, step, data.get("detail"), outcome)


def plan_of(procedure: str, events: Sequence[StepEvent]) -> Plan:
    """The plan that a journal of these events began with; ProcedureError where it holds none."""
    if not events or events[0].event != "created" or not isinstance(events[0].detail, Mapping):
        raise ProcedureError(f"The journal of {procedure} holds no plan.", "Plan it anew.")
    return plan_from_json(events[0].detail.get("plan"))


def fold(state: ProcedureState | None, event: StepEvent) -> ProcedureState | None:
    """The state after `event`; None as long as there is no plan."""
    if event.event == "created":
        return _created(event)
    if state is None:
        return None
    match event.event:
        case "resumed":
            return replace(state, state="running", owner=_word(event, "owner") or state.owner, question="")
        case "question":
            return replace(state, state="asking", question=event.text)
        case "answer":
            return replace(state, state="running", question="")
        case "finished":
            steps = tuple(replace(s, state="waiting") if s.state == "running" else s for s in state.steps)
            return replace(state, state=event.outcome or "failed", question="", steps=steps)
        case "lost":
            return replace(state, state="lost", question="")
    if event.step is None or not 0 <= event.step < len(state.steps):
        return state
    step = _step(state.steps[event.step], event)
    return replace(state, steps=(*state.steps[: event.step], step, *state.steps[event.step + 1 :]))


def _created(event: StepEvent) -> ProcedureState | None:
    try:
        plan = plan_from_json(event.detail.get("plan") if isinstance(event.detail, Mapping) else None)
    except ProcedureError:
        return None
    return ProcedureState(
        id=event.procedure,
        kind=plan.kind,
        node=plan.node,
        title=plan.title,
        owner=_word(event, "owner"),
        state="running",
        started=event.at,
        steps=tuple(StepState(step.label, "waiting") for step in plan.steps),
        targets=plan.targets,
    )


def _step(step: StepState, event: StepEvent) -> StepState:
    match event.event:
        case "step_started":
            return replace(step, state="running", detail="", started=event.at, ended=None)
        case "output":
            return _come(replace(step, detail=event.text or step.detail), event)
        case "step_done" | "step_skipped" | "step_failed":
            detail = event.text or step.detail
            return replace(step, state=event.event[5:], detail=detail, ended=event.at, progress=None)
    return step


def _come(step: StepState, event: StepEvent) -> StepState:
    """The step with the progress that this output tells, if it tells of it."""
    detail = event.detail if isinstance(event.detail, Mapping) else {}
    if "progress" not in detail:
        return step
    told = detail["progress"]
    progress = told if isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told <= 1 else None
    return replace(step, progress=progress, estimate=detail.get("estimate") is True)


def _word(event: StepEvent, key: str) -> str:
    found = event.detail.get(key) if isinstance(event.detail, Mapping) else None
    return found if isinstance(found, str) else ""
