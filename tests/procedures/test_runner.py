from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from backends.errors import ProcedureError, RuntimeFailure, TierdeckError
from backends.procedures.events import StepEvent
from backends.procedures.plan import Danger, Plan, Step
from backends.procedures.runner import CHOICES, Ask, Control, Past, Question, Report, past_of, run
from tests.procedures.virtual import VirtualClock, virtually


@dataclass
class World:
    """What toy steps do to it; a step's name in `faults` says at which stage it fails, and how."""

    done: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    faults: dict[str, Exception | float] = field(default_factory=dict)
    before: Callable[[str], Awaitable[None]] | None = None

    async def at(self, stage: str, name: str) -> None:
        call = f"{stage} {name}"
        self.calls.append(call)
        if self.before:
            await self.before(call)
        fault = self.faults.get(call)
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        elif fault is not None:
            raise fault


class Toy:
    def __init__(self, step: Step, world: World) -> None:
        self.name, self.world = step.label, world

    async def check(self) -> str:
        await self.world.at("check", self.name)
        return "holds already" if self.name in self.world.done else ""

    async def apply(self, report: Report) -> None:
        await self.world.at("apply", self.name)
        report({"text": f"applying {self.name}"})
        self.world.done.append(self.name)
        await self.world.at("applied", self.name)

    async def verify(self, report: Report) -> str:
        await self.world.at("verify", self.name)
        return f"{self.name} holds"

    async def undo(self) -> None:
        await self.world.at("undo", self.name)


class Kept:
    """A journal in memory; at the write of number `die_at` the process dies, with that line written or not."""

    def __init__(self, die_at: int | None = None, written: bool = True) -> None:
        self.events: list[StepEvent] = []
        self.die_at, self.written, self.writes = die_at, written, 0

    def write(self, event: StepEvent) -> None:
        self.writes += 1
        if self.die_at is not None and self.writes >= self.die_at:
            if self.writes == self.die_at and self.written:
                self.events.append(event)
            raise Killed
        self.events.append(event)


class Killed(BaseException):
    pass


def plan_of(*names: str, limit: float = 60.0) -> Plan:
    return Plan("toy", "mark", "toys", tuple(Step("toy", n, {}, limit, Danger.CHANGES, f"do {n}") for n in names))


def answering(*answers: str) -> Ask:
    left = list(answers)

    async def ask(question: Question) -> str:
        assert question.choices == CHOICES
        return left.pop(0)

    return ask


def carried(
    world: World,
    plan: Plan,
    *,
    ask: Ask | None = None,
    control: Control | None = None,
    journal: Kept | None = None,
    past: Past | None = None,
) -> list[StepEvent]:
    async def go() -> list[StepEvent]:
        events = run(
            plan,
            {"toy": Toy},
            world,
            procedure="p",
            journal=journal if journal is not None else Kept(),
            ask=ask,
            control=control or Control(),
            clock=VirtualClock(),
            past=past or Past(),
        )
        return [event async for event in events]

    return virtually(go())


def story(events: Sequence[StepEvent]) -> list[str]:
    return [f"{e.event}{'' if e.step is None else f' {e.step}'}{f' {e.outcome}' if e.outcome else ''}" for e in events]


def test_a_plan_is_done_in_order() -> None:
    world = World()
    journal = Kept()
    events = carried(world, plan_of("a", "b"), journal=journal)
    assert story(events) == [
        "step_started 0",
        "output 0",
        "step_done 0",
        "step_started 1",
        "output 1",
        "step_done 1",
        "finished done",
    ]
    assert events == journal.events
    assert world.calls[:4] == ["check a", "apply a", "applied a", "verify a"]
    assert events[0].detail == {"text": "a", "command": "do a"}
    assert events[2].text == "a holds"


def test_intent_is_kept_before_the_world_changes() -> None:
    journal = Kept()
    world = World()

    async def before(call: str) -> None:
        if call == "apply a":
            assert story(journal.events) == ["step_started 0"]

    world.before = before
    carried(world, plan_of("a"), journal=journal)
    assert "apply a" in world.calls


def test_what_holds_is_skipped() -> None:
    world = World(done=["a"])
    events = carried(world, plan_of("a", "b"))
    assert story(events)[:2] == ["step_skipped 0", "step_started 1"]
    assert events[0].text == "holds already"
    assert world.done == ["a", "b"]
    assert "apply a" not in world.calls
    assert "verify a" not in world.calls


@pytest.mark.parametrize("stage", ["check", "apply", "applied", "verify"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (RuntimeFailure("Docker refused.", "Do this."), "Docker refused. Do this."),
        (100_000.0, "not done within"),
        (TimeoutError(), "did not answer in time"),
    ],
)
def test_a_failure_at_any_stage_halts_unattended(stage: str, fault: Exception | float, words: str) -> None:
    world = World(faults={f"{stage} a": fault})
    events = carried(world, plan_of("a", "b"))
    assert story(events)[-2:] == ["step_failed 0", "finished halted"]
    assert words in events[-2].text
    assert "check b" not in world.calls
    assert ("undo a" in world.calls) is (stage != "check")


def test_the_time_limit_is_the_steps_own() -> None:
    world = World(faults={"apply a": 90.0})
    assert story(carried(world, plan_of("a", limit=100.0)))[-1] == "finished done"
    world = World(faults={"apply a": 60.0, "verify a": 50.0})
    events = carried(world, plan_of("a", limit=100.0))
    assert "not done within 100 s" in next(e.text for e in events if e.event == "step_failed")


def test_retry_checks_again_and_does_not_repeat_what_holds() -> None:
    world = World(faults={"applied a": RuntimeFailure("lost the line.")})
    events = carried(world, plan_of("a"), ask=answering("retry"))
    assert story(events) == [
        "step_started 0",
        "output 0",
        "step_failed 0",
        "question 0",
        "answer 0",
        "step_started 0",
        "step_done 0",
        "finished done",
    ]
    assert world.done == ["a"]
    assert world.calls.count("apply a") == 1
    assert world.calls[-2:] == ["check a", "verify a"]


def test_skip_goes_on() -> None:
    world = World(faults={"apply a": RuntimeFailure("no.")})
    events = carried(world, plan_of("a", "b"), ask=answering("skip"))
    assert story(events)[-5:] == ["step_skipped 0", "step_started 1", "output 1", "step_done 1", "finished done"]
    assert world.done == ["b"]
    assert past_of(events) == Past(skipped=frozenset({0}))


@pytest.mark.parametrize(("choice", "outcome"), [("hold", "halted"), ("abort", "failed")])
def test_hold_and_abort(choice: str, outcome: str) -> None:
    world = World(faults={"apply a": RuntimeFailure("no.")})
    events = carried(world, plan_of("a", "b"), ask=answering(choice))
    assert story(events)[-1] == f"finished {outcome}"
    assert world.done == []


def test_a_person_may_think_for_as_long_as_they_like() -> None:
    async def slow(question: Question) -> str:
        await asyncio.sleep(86_400)
        return "skip"

    assert (
        story(carried(World(faults={"check a": RuntimeFailure("no.")}), plan_of("a"), ask=slow))[-1] == "finished done"
    )


def cancelling(world: World, control: Control, call: str, times: int) -> None:
    async def before(seen: str) -> None:
        if seen == call:
            for _ in range(times):
                control.cancel()
            await asyncio.sleep(1)

    world.before = before


@pytest.mark.parametrize("stage", ["check", "apply", "applied", "verify"])
def test_cancelled_once_it_stops_at_the_edge(stage: str) -> None:
    world, control = World(), Control()
    cancelling(world, control, f"{stage} a", 1)
    events = carried(world, plan_of("a", "b"), control=control)
    assert story(events)[-2:] == ["step_done 0", "finished cancelled"]
    assert world.done == ["a"]
    assert "check b" not in world.calls


@pytest.mark.parametrize("stage", ["check", "apply", "applied", "verify"])
def test_cancelled_twice_it_stops_now(stage: str) -> None:
    world, control = World(), Control()
    cancelling(world, control, f"{stage} a", 2)
    events = carried(world, plan_of("a", "b"), control=control)
    assert story(events)[-2:] == ["step_failed 0", "finished cancelled"]
    assert "as asked" in events[-2].text
    assert ("undo a" in world.calls) is (stage != "check")
    assert world.calls[-1] in (f"{stage} a", "undo a")


@pytest.mark.parametrize("answer", ["continue", "cancel"])
def test_paused_it_waits_at_the_edge_until_it_is_told_to_go_on(answer: str) -> None:
    world, control = World(), Control()
    later: list[asyncio.Task[None]] = []

    async def tell() -> None:
        await asyncio.sleep(500)
        assert "check b" not in world.calls
        control.going.set() if answer == "continue" else control.cancel()

    async def before(seen: str) -> None:
        if seen == "apply a":
            control.pause()
            later.append(asyncio.create_task(tell()))

    world.before = before
    events = carried(world, plan_of("a", "b"), control=control)
    asked = next(event for event in events if event.event == "question")
    assert (asked.step, asked.choices) == (1, ("continue",))
    assert asked.text == "Paused before: b. continue, or cancel?"
    last = ["step_done 1", "finished done"] if answer == "continue" else ["finished cancelled"]
    assert story(events)[-len(last) :] == last


def test_a_pause_that_is_taken_back_before_the_edge_is_none() -> None:
    world, control = World(), Control()

    async def before(seen: str) -> None:
        if seen == "apply a":
            control.pause()
            control.going.set()

    world.before = before
    assert not [event for event in carried(world, plan_of("a", "b"), control=control) if event.event == "question"]


def test_cancelled_before_the_first_step() -> None:
    world, control = World(), Control()
    control.cancel()
    assert story(carried(world, plan_of("a"), control=control)) == ["finished cancelled"]
    assert world.calls == []


def test_cancelled_in_the_last_step_it_is_done() -> None:
    world, control = World(), Control()
    cancelling(world, control, "verify a", 1)
    assert story(carried(world, plan_of("a"), control=control))[-1] == "finished done"


def test_cancelled_while_it_asks() -> None:
    control = Control()

    async def never(question: Question) -> str:
        control.cancel()
        await asyncio.sleep(1e9)
        return "retry"

    events = carried(World(faults={"apply a": RuntimeFailure("no.")}), plan_of("a", "b"), ask=never, control=control)
    assert story(events)[-2:] == ["answer 0", "finished cancelled"]


def test_cancelled_before_the_failure_nobody_is_asked() -> None:
    world, control = World(faults={"verify a": RuntimeFailure("no.")}), Control()
    cancelling(world, control, "apply a", 1)
    assert story(carried(world, plan_of("a"), control=control))[-2:] == ["step_failed 0", "finished cancelled"]


def test_undo_that_fails_or_hangs_is_told() -> None:
    for fault in (RuntimeFailure("gone."), 100_000.0):
        world = World(faults={"apply a": RuntimeFailure("no."), "undo a": fault})
        events = carried(world, plan_of("a"))
        assert any("could not be taken back" in e.text for e in events)
        assert "no." in next(e.text for e in events if e.event == "step_failed")


def test_a_bug_ends_the_procedure_with_its_name_and_is_raised() -> None:
    journal = Kept()
    with pytest.raises(ZeroDivisionError):
        carried(World(faults={"verify a": ZeroDivisionError("oops")}), plan_of("a", "b"), journal=journal)
    assert story(journal.events)[-1] == "finished failed"
    assert journal.events[-1].text == "ZeroDivisionError: oops"


def test_an_unknown_step_ends_it_before_the_first() -> None:
    journal = Kept()
    plan = Plan("toy", "mark", "t", (Step("toy", "a"), Step("teleport", "b")))
    world = World()
    with pytest.raises(ProcedureError, match='no step "teleport"'):
        carried(world, plan, journal=journal)
    assert story(journal.events) == ["finished failed"]
    assert world.calls == []


def test_a_journal_that_cannot_be_written_stops_it_before_the_step() -> None:
    class Full:
        def write(self, event: StepEvent) -> None:
            raise ProcedureError("The journal cannot be written: No space left on device.")

    world = World()
    with pytest.raises(TierdeckError, match="No space left"):
        carried(world, plan_of("a"), journal=Full())  # type: ignore[arg-type]
    assert world.done == []
    assert "apply a" not in world.calls


def test_left_early_it_cancels_its_step() -> None:
    world = World(faults={"verify a": 1e9})

    async def go() -> None:
        events = run(
            plan_of("a"),
            {"toy": Toy},
            world,
            procedure="p",
            journal=Kept(),
            ask=None,
            control=Control(),
            clock=VirtualClock(),
        )
        async for event in events:
            if event.event == "output":
                break
        await events.aclose()
        assert len(asyncio.all_tasks()) == 1

    virtually(go())
    assert world.calls[-1] == "undo a"


def _killed(world: World, plan: Plan, journal: Kept, past: Past) -> None:
    async def go() -> None:
        events = run(
            plan,
            {"toy": Toy},
            world,
            procedure="p",
            journal=journal,
            ask=None,
            control=Control(),
            clock=VirtualClock(),
            past=past,
        )
        async for _ in events:
            pass

    with pytest.raises(Killed):
        virtually(go())


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("edge", range(1, 9))
def test_killed_at_every_line_of_the_journal_it_is_resumed_and_does_nothing_twice(edge: int, written: bool) -> None:
    world, plan = World(), plan_of("a", "b")
    dying = Kept(die_at=edge, written=written)
    if edge <= 7:
        _killed(world, plan, dying, Past())
    else:
        carried(world, plan, journal=dying)
    again = carried(world, plan, past=past_of(dying.events))
    assert story(again)[-1] == "finished done"
    assert world.done == ["a", "b"]
    for name in ("a", "b"):
        assert world.calls.count(f"verify {name}") >= 1


@pytest.mark.parametrize("stage", ["check", "apply", "applied", "verify"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_killed_inside_every_stage_it_is_resumed_and_does_nothing_twice(stage: str, name: str) -> None:
    class Dies(World):
        async def at(self, at_stage: str, at_name: str) -> None:
            await super().at(at_stage, at_name)
            if (at_stage, at_name) == (stage, name):
                raise Killed

    dying, journal, plan = Dies(), Kept(), plan_of("a", "b")
    _killed(dying, plan, journal, Past())
    world = World(done=list(dying.done))
    again = carried(world, plan, past=past_of(journal.events))
    assert story(again)[-1] == "finished done"
    assert world.done == ["a", "b"]
    assert f"verify {name}" in world.calls
    assert (f"apply {name}" in world.calls) is (name not in dying.done)


def test_resumed_a_step_that_no_longer_holds_is_done_again() -> None:
    world = World()
    first = carried(world, plan_of("a", "b"))
    world.done.remove("a")
    again = carried(world, plan_of("a", "b"), past=past_of(first))
    assert story(again) == ["step_started 0", "output 0", "step_done 0", "step_skipped 1", "finished done"]


def test_resumed_a_step_skipped_by_a_person_stays_skipped() -> None:
    world = World(faults={"apply a": RuntimeFailure("no.")})
    first = carried(world, plan_of("a", "b"), ask=answering("skip"))
    again_world = World()
    carried(again_world, plan_of("a", "b"), past=past_of(first))
    assert again_world.done == ["b"]


def past_cases() -> list[tuple[list[tuple[str, int | None, Any]], Past]]:
    return [
        ([], Past()),
        ([("step_started", 0, None)], Past(broken_off=frozenset({0}))),
        ([("step_started", 0, None), ("step_done", 0, None)], Past()),
        ([("step_started", 0, None), ("step_failed", 0, None)], Past(broken_off=frozenset({0}))),
        ([("step_skipped", 0, {"by": "person"})], Past(skipped=frozenset({0}))),
        ([("step_skipped", 0, {"text": "holds"})], Past()),
        ([("step_skipped", 0, {"by": "person"}), ("step_started", 0, None)], Past(broken_off=frozenset({0}))),
        ([("finished", None, None)], Past()),
    ]


@pytest.mark.parametrize(("lines", "expected"), past_cases())
def test_past(lines: list[tuple[str, int | None, Any]], expected: Past) -> None:
    assert past_of([StepEvent(1.0, "p", event, step, detail) for event, step, detail in lines]) == expected


@pytest.mark.parametrize(
    ("faults", "answers", "ran", "outcome"),
    [
        ({}, [], ["a", "back", "c"], "done"),
        ({"apply a": ProcedureError("No.")}, ["hold"], ["back"], "halted"),
        ({"verify a": ProcedureError("No.")}, ["abort"], ["a", "back"], "failed"),
        ({"apply a": ProcedureError("No."), "apply back": ProcedureError("No.")}, ["hold"], [], "halted"),
        ({"apply back": ProcedureError("No.")}, ["abort"], ["a"], "failed"),
        ({"apply c": ProcedureError("No.")}, ["abort"], ["a", "back"], "failed"),
    ],
)
def test_what_is_to_be_done_always_is_done_once_however_the_rest_ends(
    faults: dict[str, Exception | float], answers: list[str], ran: list[str], outcome: str
) -> None:
    world, plan = World(faults=faults), plan_of("a", "back", "c")
    plan = replace(plan, steps=(plan.steps[0], replace(plan.steps[1], always=True), plan.steps[2]))
    events = carried(world, plan, ask=answering(*answers))
    assert (world.done, events[-1].outcome) == (ran, outcome)


def test_what_is_to_be_done_always_is_done_after_a_cancel_and_after_a_crash() -> None:
    plan = plan_of("a", "back")
    plan = replace(plan, steps=(plan.steps[0], replace(plan.steps[1], always=True)))
    control = Control()
    control.cancel()
    control.cancel()
    world = World()
    assert carried(world, plan, control=control)[-1].outcome == "cancelled"
    assert world.done == ["back"], "what was borrowed in an earlier run is given back, too"
    world = World(faults={"apply a": ZeroDivisionError("a")})
    with pytest.raises(ZeroDivisionError):
        carried(world, plan)
    assert world.done == ["back"]
