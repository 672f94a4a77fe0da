"""The steps of a deployment that is declared: a thing, a secret, a volume that is filled by work of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic import JsonValue

from backends.errors import ProcedureError, ReachError
from backends.procedures.context import Context
from backends.procedures.copying import OUTAGE, Progress
from backends.procedures.fragment import parsed
from backends.procedures.gate import Patience, Voice
from backends.procedures.plan import Step
from backends.procedures.runner import Report, StepKind
from backends.reach.runtime import Declares, Objects

STALL: Final = 1800.0
"""Seconds for which it may say nothing new: as long as the checksum of a large model takes on a slow disk."""

_SAID: Final = re.compile(r"progress (\d+) KiB")
"""How the work tells how much is there; see exports.pods.FETCH."""

Thing = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Declared:
    """What the step is told: a thing for the runtime of that kind, and what is there before."""

    node: str
    runtime: str
    thing: Thing
    former: Thing | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the step is told: a secret without its value, the entry that takes it, and a reference to it."""

    node: str
    runtime: str
    thing: Thing
    entry: str
    secret: str


@dataclass(frozen=True, slots=True)
class Filled:
    """What the step is told: work that fills a volume with `content`, of `size` bytes (0: not known).

    The volume was `kept` from before, or comes with this plan.
    """

    node: str
    runtime: str
    thing: Thing
    volume: Thing
    content: str
    size: int = 0
    kept: bool = False


def to_json(told: Declared | Sealed | Filled) -> dict[str, JsonValue]:
    """As a step's arguments."""
    return {key: value for key, value in asdict(told).items() if value is not None}


class Declare:
    """Declares a thing, once its runtime has said by a dry run that something would change."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Declared, step), context

    async def check(self) -> str:
        """It is so."""
        objects = await _declaring(self._context, self._told)
        return "" if (await objects.rehearse(self._told.thing)).changes else "it is so already"

    async def apply(self, report: Report) -> None:
        """One call; the runtime takes it as a whole or not at all."""
        objects = await _declaring(self._context, self._told)
        await self._context.confirm()
        await objects.declare(self._told.thing)

    async def verify(self, report: Report) -> str:
        """The runtime would change nothing any more."""
        objects = await _declaring(self._context, self._told)
        if changes := (await objects.rehearse(self._told.thing)).changes:
            raise ProcedureError(
                f"{_title(self._told.thing)} was declared and is otherwise: {'; '.join(changes[:4])}.",
                "Somebody changes it back: see who manages these fields.",
            )
        return f"{_title(self._told.thing)} is as declared"

    async def undo(self) -> None:
        """What was not taken is not there."""

    async def revert(self, report: Report) -> str:
        """As it was before, or gone."""
        objects = await _declaring(self._context, self._told)
        return await objects.withdraw(self._told.thing, self._told.former)


class Seal:
    """Declares a secret, its value resolved at this moment and told to nobody else."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Sealed, step), context

    async def check(self) -> str:
        """It is always declared: whether its value is the right one cannot be seen without reading it."""
        return ""

    async def apply(self, report: Report) -> None:
        """One call."""
        told, objects = self._told, await _declaring(self._context, self._told)
        if self._context.touch is None:
            raise ProcedureError(f"The value of {_title(told.thing)} cannot be resolved from here.")
        value = (await self._context.touch.secret(told.secret)).get_secret_value()
        await self._context.confirm()
        await objects.declare(sealed(told.thing, told.entry, value))

    async def verify(self, report: Report) -> str:
        """It is there."""
        return f"{_title(self._told.thing)} is as declared"

    async def undo(self) -> None:
        """What was not taken is not there."""

    async def revert(self, report: Report) -> str:
        """It goes."""
        return await (await _declaring(self._context, self._told)).withdraw(self._told.thing, None)


class Fill:
    """Has a volume filled by work that the runtime does by itself: it goes on without us, and is found again."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Filled, step), context

    async def check(self) -> str:
        """It was filled with this, and noted."""
        noted = await (await _declaring(self._context, self._told)).noted(self._told.volume)
        return "it has it already" if noted == self._told.content else ""

    async def apply(self, report: Report) -> None:
        """Declare the work, or find it again, and tell how far it is; one that failed begins anew where it stood."""
        told, objects = self._told, await _declaring(self._context, self._told)
        if (await objects.work(told.thing)).state == "failed":
            await self._context.confirm()
            await objects.withdraw(told.thing, None)
        await self._context.confirm()
        await objects.declare(told.thing)
        await self._until_done(objects, report)

    async def _until_done(self, objects: Objects, report: Report) -> None:
        told, clock, there = self._told, self._context.clock, -1
        progress, voice = Progress(report, self._context, told.size), Voice(report, clock)
        outage, stall = Patience(clock, OUTAGE), Patience(clock, STALL)
        while True:
            try:
                work = await objects.work(told.thing)
            except ReachError as error:
                await voice.endure(error, outage, "copy")
                continue
            if work.state == "done":
                return
            stall.see("lines", work.lines[-1:])
            if work.state != "running" or stall.exhausted:
                raise _failed(told, work.lines)
            outage.see("looked", outage.waited)
            if (now := _bytes(work.lines)) is not None and told.size:
                progress.already(now) if there < 0 else progress.came(max(0, now - there))
                there = max(there, now)
            elif work.lines:
                voice.say("copy", stall.waited, work.lines[-1])
            await clock.sleep(stall.pause)

    async def verify(self, report: Report) -> str:
        """It is whole by its own checksum; that is noted on the volume, for good."""
        objects = await _declaring(self._context, self._told)
        await objects.note(self._told.volume, self._told.content)
        return f"{_title(self._told.volume)} has it"

    async def undo(self) -> None:
        """The work ends; what came stays, so that it can be gone on with."""
        await (await _declaring(self._context, self._told)).withdraw(self._told.thing, None)

    async def revert(self, report: Report) -> str:
        """The work goes; a volume of ours goes as a whole, in one that was there before the file stays."""
        told, objects = self._told, await _declaring(self._context, self._told)
        said = await objects.withdraw(told.thing, None)
        if not told.kept:
            return said
        if await objects.noted(told.volume) == told.content:
            await objects.note(told.volume, "")
            return f"{_title(told.volume)} was there before, and keeps the file that came into it"
        return said


def sealed(thing: Thing, entry: str, value: str) -> Thing:
    """A secret with its value, as the API takes it."""
    from base64 import b64encode

    return {**thing, "data": {entry: b64encode(value.encode()).decode()}}


async def _declaring(context: Context, told: Declared | Sealed | Filled) -> Objects:
    runtime = await context.runtime(told.node, told.runtime)
    if not isinstance(runtime, Declares):
        raise ProcedureError(f"Nothing can be declared to the {told.runtime} of {told.node}.", "Plan it anew.")
    return runtime.objects


def _title(thing: Mapping[str, Any]) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


def _bytes(lines: tuple[str, ...]) -> int | None:
    """What the last line about it says; None where none does."""
    said = [found for line in lines if (found := _SAID.search(line))]
    return int(said[-1][1]) * 1024 if said else None


def _failed(told: Filled, lines: tuple[str, ...]) -> ProcedureError:
    words = [line for line in lines if line.strip() and not _SAID.search(line)]
    why = f": {'; '.join(words[-3:])}" if words else ""
    return ProcedureError(
        f"{_title(told.thing)} did not fill {_title(told.volume)}{why}.",
        "What came stays; another try goes on from there.",
    )


DECLARED_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "declare": Declare,
    "seal": Seal,
    "fill": Fill,
}
