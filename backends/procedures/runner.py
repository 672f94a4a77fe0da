"""Carries a plan out, step by step: check, apply, verify, with a time limit, a journal, and a person to ask.

Intent is in the journal before a step is applied, its outcome after. Resuming asks `check` again; the journal only
says which step was broken off (it is verified even if its check holds) and which ones a person chose to skip.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from pydantic import JsonValue

from backends.clock import Clock
from backends.errors import ProcedureError, TierdeckError
from backends.procedures.events import StepEvent
from backends.procedures.plan import Plan, Step
from backends.procedures.rollback import take_back

CHOICES: Final = ("retry", "skip", "hold", "abort")
"""The answers to a failed step: again, go on without it, stop here to be resumed, give the procedure up."""

ROLLBACK: Final = "rollback"
"""One answer more, where a plan can be taken back as a whole."""

CHECK_LIMIT: Final = 30.0
"""Seconds that looking whether a step is done already may take."""

UNDO_LIMIT: Final = 30.0
"""Seconds that taking back a step that was broken off may take."""

Report = Callable[[Mapping[str, JsonValue]], None]
"""Tells what a step is doing, as JSON; "text" in it is a line for people."""

C = TypeVar("C")
T = TypeVar("T")


class StepKind(Protocol):
    """How one step is done; a failure is a TierdeckError that says what happened and what to do next."""

    async def check(self) -> str:
        """Why there is nothing to do ("already ready"), or "" where there is; changes nothing."""
        ...

    async def apply(self, report: Report) -> None:
        """Change the world; called only after `check` said there is something to do."""
        ...

    async def verify(self, report: Report) -> str:
        """Wait until it holds, and say so in a line."""
        ...

    async def undo(self) -> None:
        """Take back what a broken-off `apply` must not leave behind; most leave things as they are."""
        ...


class Writes(Protocol):
    """Keeps events; what it has kept is on disk."""

    def write(self, event: StepEvent) -> None:
        """Keep one event; ProcedureError where that cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A failed step, and the answers there are."""

    step: int
    text: str
    choices: tuple[str, ...] = CHOICES


Ask = Callable[[Question], Awaitable[str]]
"""Asks a person; whoever has nobody to ask passes None, and the procedure halts, to be resumed."""


Guard = Callable[[], Awaitable[None]]
"""Raises a TierdeckError where the node is no longer ours to change; asked before every `apply`."""


CONTINUE: Final = "continue"
"""The answer to a procedure that was paused."""


class Control:
    """A person's wish to stop: once at the edge of the step, twice now; or to pause at the edge, and to go on."""

    def __init__(self) -> None:
        self.edge = asyncio.Event()
        self.now = asyncio.Event()
        self.going = asyncio.Event()
        self.going.set()

    def cancel(self) -> None:
        """Ask to stop; asked again, insist."""
        (self.now if self.edge.is_set() else self.edge).set()

    def pause(self) -> None:
        """Ask for no further step until `going` is set again."""
        self.going.clear()


@dataclass(frozen=True, slots=True)
class Past:
    """What a journal says of an earlier run: the steps that were begun and not ended, and those a person skipped."""

    broken_off: frozenset[int] = frozenset()
    skipped: frozenset[int] = frozenset()


def past_of(events: Sequence[StepEvent]) -> Past:
    """What `events` say of the run before."""
    begun: set[int] = set()
    skipped: set[int] = set()
    for event in events:
        if event.step is None:
            continue
        if event.event == "step_started":
            begun.add(event.step)
            skipped.discard(event.step)
        elif event.event in ("step_done", "step_skipped"):
            begun.discard(event.step)
            if isinstance(event.detail, Mapping) and event.detail.get("by") == "person":
                skipped.add(event.step)
    return Past(frozenset(begun), frozenset(skipped))


async def run(
    plan: Plan,
    kinds: Mapping[str, Callable[[Step, C], StepKind]],
    context: C,
    *,
    procedure: str,
    journal: Writes,
    ask: Ask | None,
    control: Control,
    clock: Clock,
    past: Past = Past(),
    guard: Guard | None = None,
    back: bool = False,
) -> AsyncGenerator[StepEvent, None]:
    """Carry `plan` out and yield what happens, the last event being `finished`; closing it cancels the step.

    With `back` it is only taken back.
    """
    queue: asyncio.Queue[StepEvent | None] = asyncio.Queue()

    def emit(event: str, step: int | None, detail: JsonValue = None, outcome: str | None = None) -> None:
        happened = StepEvent(clock.now().wall, procedure, event, step, detail, outcome)
        journal.write(happened)
        queue.put_nowait(happened)

    desk = _Desk(emit, ask, control, guard, plan)
    task = asyncio.create_task(_drive(plan, kinds, context, desk, past, back=back))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            yield event
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def reason(error: BaseException) -> str:
    """An error in a line for people, ours or not."""
    return str(error) if isinstance(error, TierdeckError) else f"{type(error).__name__}: {error}"


class _Emit(Protocol):
    def __call__(self, event: str, step: int | None, detail: JsonValue = None, outcome: str | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where a run tells and asks."""

    emit: _Emit
    ask: Ask | None
    control: Control
    guard: Guard | None
    plan: Plan


class _StoppedNow(Exception):
    """A person insisted."""


async def _drive(
    plan: Plan,
    kinds: Mapping[str, Callable[[Step, C], StepKind]],
    context: C,
    desk: _Desk,
    past: Past,
    *,
    back: bool,
) -> None:
    trouble = ""
    try:
        unknown = next((step.kind for step in plan.steps if step.kind not in kinds), None)
        if unknown is not None:
            raise ProcedureError(f'This version of tierdeck has no step "{unknown}".', "Plan it anew.")
        outcome = ROLLBACK if back else await _forward(plan, kinds, context, desk, past)
        if outcome == ROLLBACK:
            trouble = await _take_back(plan, kinds, context, desk)
    except Exception as error:
        desk.emit("finished", None, {"text": reason(error)}, "failed")
        raise
    if outcome == ROLLBACK:
        text = f"not everything could be taken back: {trouble}" if trouble else "taken back: all is as it was before"
        desk.emit("finished", None, {"text": text}, "cancelled" if back and not trouble else "failed")
        return
    desk.emit("finished", None, None, outcome)


async def _forward(
    plan: Plan, kinds: Mapping[str, Callable[[Step, C], StepKind]], context: C, desk: _Desk, past: Past
) -> str:
    """Do one step after the other; how it ended. What is to be done always is done where it ends early."""
    coming = [(index, step) for index, step in enumerate(plan.steps) if index not in past.skipped]
    try:
        while coming:
            index, step = coming[0]
            await _while_paused(index, step, desk)
            if desk.control.edge.is_set():
                return "cancelled"
            del coming[0]
            kind = kinds[step.kind](step, context)
            if (stopped := await _step(index, step, kind, desk, index in past.broken_off)) is not None:
                return stopped
        return "done"
    finally:
        alone = replace(desk, ask=None, control=Control())  # nobody is asked, and nobody stops it
        for index, step in coming:
            if step.always:
                await _step(index, step, kinds[step.kind](step, context), alone, index in past.broken_off)


async def _take_back(plan: Plan, kinds: Mapping[str, Callable[[Step, C], StepKind]], context: C, desk: _Desk) -> str:
    async def confirm() -> None:
        if desk.guard is not None:
            await desk.guard()

    steps = {index: kinds[step.kind](step, context) for index, step in enumerate(plan.steps)}
    return await take_back(steps, lambda index, text: desk.emit("output", index, {"text": text}), confirm)


async def _step(index: int, step: Step, kind: StepKind, desk: _Desk, broken_off: bool) -> str | None:
    """Do one step; None to go on, else the outcome with which the procedure ends."""
    while True:
        try:
            await _attempt(index, step, kind, desk, broken_off)
            return None
        except _StoppedNow:
            desk.emit("step_failed", index, {"text": "stopped now, as asked"})
            return "cancelled"
        except TierdeckError as error:
            text = str(error)
            desk.emit("step_failed", index, {"text": text})
            if step.may_fail and not desk.control.edge.is_set():
                return None
        broken_off = True
        match await _answer(index, step, text, desk):
            case "retry":
                continue
            case "skip":
                desk.emit("step_skipped", index, {"text": f"skipped by a person: {text}", "by": "person"})
                return None
            case "hold":
                return "halted"
            case "abort":
                return "failed"
            case "rollback":
                return ROLLBACK
            case _:
                return "cancelled"


async def _attempt(index: int, step: Step, kind: StepKind, desk: _Desk, broken_off: bool) -> None:
    def report(detail: Mapping[str, JsonValue]) -> None:
        desk.emit("output", index, dict(detail))

    async def change() -> str:
        if not holds:
            if desk.guard is not None:
                await desk.guard()
            await kind.apply(report)
        return await kind.verify(report)

    holds = await _unless_stopped(desk.control, CHECK_LIMIT, kind.check)
    if holds and not broken_off:
        desk.emit("step_skipped", index, {"text": holds})
        return
    desk.emit("step_started", index, {"text": step.label, "command": step.command})
    try:
        told = await _unless_stopped(desk.control, step.time_limit, change)
    except BaseException:
        await _undo(kind, report)
        raise
    desk.emit("step_done", index, {"text": told})


async def _undo(kind: StepKind, report: Report) -> None:
    try:
        await _within(UNDO_LIMIT, kind.undo)
    except TierdeckError as error:
        report({"text": f"it could not be taken back: {error}"})


async def _while_paused(index: int, step: Step, desk: _Desk) -> None:
    """Wait at the edge of a step where a person paused, until they go on or cancel."""
    control = desk.control
    if control.going.is_set() or control.edge.is_set():
        return
    desk.emit(
        "question", index, {"text": f"Paused before: {step.label}. {CONTINUE}, or cancel?", "choices": [CONTINUE]}
    )
    waits = [asyncio.ensure_future(control.going.wait()), asyncio.ensure_future(control.edge.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(*waits)
    desk.emit("answer", index, {"text": "cancel" if control.edge.is_set() else CONTINUE})


async def _answer(index: int, step: Step, trouble: str, desk: _Desk) -> str:
    """What to do after a failure; "cancel" where the person cancelled, before or instead of an answer."""
    if desk.control.edge.is_set():
        return "cancel"
    if desk.ask is None:
        return desk.plan.on_failure
    choices = (*CHOICES, ROLLBACK) if desk.plan.reversible else CHOICES
    question = Question(index, f"{step.label}: {trouble} {', '.join(choices)}?", choices)
    desk.emit("question", index, {"text": question.text, "choices": list(question.choices)})
    answer = asyncio.ensure_future(desk.ask(question))
    cancelled = asyncio.ensure_future(desk.control.edge.wait())
    try:
        await asyncio.wait({answer, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        choice = answer.result() if answer.done() else "cancel"
    finally:
        await _end(answer, cancelled)
    desk.emit("answer", index, {"text": choice})
    return choice


async def _unless_stopped(control: Control, limit: float, work: Callable[[], Awaitable[T]]) -> T:
    """Do `work` within `limit` seconds; _StoppedNow if a person insists on stopping meanwhile."""
    task = asyncio.create_task(_within(limit, work))
    stopped = asyncio.create_task(control.now.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _StoppedNow
    finally:
        await _end(task, stopped)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _within(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work()
    except TimeoutError:
        late = (
            f"It was not done within {seconds:g} s."
            if limit.expired()
            else "Something it asked did not answer in time."
        )
        raise ProcedureError(late) from None
