from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from backends.cluster.reading import ProcedureState
from backends.procedures.events import StepEvent, fold, parse
from backends.procedures.plan import Plan, Step, to_json
from tui.verbs.following import Telling

PLAN = Plan("queue", "mark", "Start queue of mark", (Step("x", "start a"), Step("x", "start b")), targets=("a", "b"))
CREATED = StepEvent(1000.0, "p", "created", None, {"owner": "ops@desk:7", "plan": to_json(PLAN)})


def folded(*events: StepEvent) -> ProcedureState:
    state: ProcedureState | None = None
    for event in (CREATED, *events):
        state = fold(state, event)
    assert state is not None
    return state


def happened(
    event: str, step: int | None = None, text: str = "", at: float = 1001.0, outcome: str | None = None
) -> StepEvent:
    return StepEvent(at, "p", event, step, {"text": text} if text else None, outcome)


def test_created() -> None:
    state = folded()
    assert (state.id, state.kind, state.node, state.owner, state.state) == (
        "p",
        "queue",
        "mark",
        "ops@desk:7",
        "running",
    )
    assert state.targets == ("a", "b")
    assert [s.label for s in state.steps] == ["start a", "start b"]
    assert {s.state for s in state.steps} == {"waiting"}
    assert state.started == 1000.0


def test_a_whole_run() -> None:
    state = folded(
        happened("step_skipped", 0, "already ready"),
        happened("step_started", 1, "start b", 1002.0),
        happened("output", 1, "loading, 3 s"),
    )
    assert state.steps[0].state == "skipped"
    assert state.steps[0].detail == "already ready"
    assert (state.steps[1].state, state.steps[1].detail, state.steps[1].started) == ("running", "loading, 3 s", 1002.0)
    state = fold(state, StepEvent(1003.0, "p", "output", 1, {"log": ["x"]})) or state
    assert state.steps[1].detail == "loading, 3 s"
    state = fold(state, happened("step_done", 1, "ready after 4 s", 1006.0)) or state
    assert (state.steps[1].state, state.steps[1].ended) == ("done", 1006.0)
    state = fold(state, happened("finished", outcome="done")) or state
    assert state.state == "done"
    assert not state.open


def test_question_and_answer() -> None:
    asking = folded(happened("step_failed", 0, "exited"), happened("question", 0, "retry?"))
    assert (asking.state, asking.question, asking.open) == ("asking", "retry?", True)
    assert asking.steps[0].state == "failed"
    answered = fold(asking, happened("answer", 0, "retry"))
    assert answered is not None
    assert (answered.state, answered.question) == ("running", "")


@pytest.mark.parametrize("outcome", ["done", "failed", "cancelled", "halted"])
def test_outcomes(outcome: str) -> None:
    assert folded(happened("finished", outcome=outcome)).state == outcome


def test_resumed_runs_again_under_its_new_owner() -> None:
    state = folded(
        happened("step_failed", 0, "exited"),
        happened("finished", outcome="halted"),
        StepEvent(2000.0, "p", "resumed", None, {"owner": "ops@desk:9"}),
    )
    assert (state.state, state.owner, state.started) == ("running", "ops@desk:9", 1000.0)


def gate(step: int, text: str, at: float = 1001.0, **more: JsonValue) -> StepEvent:
    return StepEvent(at, "p", "output", step, {"text": text, "gate": "ready", "waited_s": 1.0, **more})


def test_how_far_a_step_has_come() -> None:
    start = happened("step_started", 0)
    loading = gate(0, "loading", progress=0.42, estimate=True)
    log = StepEvent(1002.0, "p", "output", 0, {"log": ["llama_model_loader: loaded"]})
    assert (folded(start).steps[0].progress, folded(start).steps[0].estimate) == (None, False)
    step = folded(start, loading, log).steps[0]
    assert (step.progress, step.estimate, step.detail) == (0.42, True, "loading")
    assert folded(start, loading, gate(0, "loading", progress=0.5)).steps[0].estimate is False
    assert folded(start, loading, happened("step_done", 0)).steps[0].progress is None
    odd: list[JsonValue] = [None, True, "0.5", -0.1, 1.1, float("nan"), [0.5]]
    for found in odd:
        assert folded(start, loading, gate(0, "loading", progress=found)).steps[0].progress is None


def test_the_lines_of_a_log_and_the_stage_of_a_gate() -> None:
    log = StepEvent(1.0, "p", "output", 0, {"log": ["a", 7, "b"]})
    assert (log.log, log.text, log.waits_at) == (["a", "b"], "", "")
    assert (gate(0, "starting").log, gate(0, "starting").waits_at) == ([], "ready")
    assert gate(0, "VRAM still moved", warning="VRAM still moved").waits_at == ""
    assert StepEvent(1.0, "p", "output", 0, {"log": "x"}).log == []
    assert happened("output", 0, "x").waits_at == ""


def test_people_are_told_of_a_wait_when_it_begins_and_every_few_seconds() -> None:
    telling = Telling()
    told = [telling.lines(gate(0, f"starting {n} s", 1000.0 + n)) for n in range(7)]
    assert [bool(lines) for lines in told] == [True, False, False, False, False, True, False]
    assert [line[10:] for line in told[5]] == ["output 1  starting 5 s"]
    assert telling.lines(gate(1, "starting 0 s", 1006.5))
    log = StepEvent(1007.0, "p", "output", 1, {"log": ["one", "two"]})
    assert [line[10:] for line in telling.lines(log)] == ["log 2  one", "log 2  two"]
    assert [line[10:] for line in telling.lines(happened("finished", outcome="done"))] == ["finished done"]


def test_nothing_without_a_plan() -> None:
    assert fold(None, happened("step_started", 0)) is None
    assert fold(None, StepEvent(1.0, "p", "created", None, {"plan": {"schema": "other"}})) is None
    assert fold(None, StepEvent(1.0, "p", "created", None, "x")) is None


def test_steps_that_do_not_exist_change_nothing() -> None:
    state = folded()
    for step in (-1, 2, 99):
        assert fold(state, happened("step_done", step)) == state


def test_lines_round_trip() -> None:
    for event in (CREATED, happened("output", 1, "x"), happened("finished", outcome="done")):
        line = json.dumps(event.to_json()).encode()
        assert parse(line) == event
    assert json.loads(json.dumps(CREATED.to_json()))["at"] == "1970-01-01T00:16:40.000Z"
    assert set(happened("output", 1).to_json()) == {"at", "procedure", "event", "step", "detail"}
    assert happened("finished", outcome="done").to_json()["outcome"] == "done"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0\0\0\0",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"at":"yesterday","procedure":"p","event":"output","step":null,"detail":null}',
        b'{"at":"2025-01-01T00:00:00Z","procedure":"p","event":"dance","step":null,"detail":null}',
        b'{"at":"2025-01-01T00:00:00Z","procedure":"p","event":"output","step":true,"detail":null}',
        b'{"at":"2025-01-01T00:00:00Z","procedure":"p","event":"output","step":"1","detail":null}',
        b'{"at":"2025-01-01T00:00:00Z","procedure":"p","event":"finished","step":null,"outcome":"bliss"}',
        b"[" * 100_000,
    ],
)
def test_damaged_lines_are_no_events(line: bytes) -> None:
    assert parse(line) is None
