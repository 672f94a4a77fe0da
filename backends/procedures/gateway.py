"""Pushes a configuration to the gateway: kept, written, restarted, asked; taken back whole where it is worse.

"Worse" is that the gateway does not come back, or that a group gives no answer although one of the engines behind it
does serve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from backends.cluster.words import SERVING
from backends.errors import ProcedureError, ReachError
from backends.procedures.context import Context
from backends.procedures.plan import Step
from backends.procedures.runner import Report, StepKind
from backends.reach.runtime import Runtime
from backends.reach.whole_file import KEPT, WholeFile, whole_file

READY_LIMIT: Final = 180.0
"""Seconds until the gateway has to be ready: LiteLLM takes 15 on two cores, a slow NAS a few times that."""

LOOK: Final = 1.0
"""Seconds between two looks whether it is ready."""

GRACE: Final = 10.0
"""Seconds a gateway is given to end."""

ABSENT: Final = ""
"""The digest of a file that is not there."""


def digest(content: bytes | None) -> str:
    """By what a configuration is told from another."""
    return ABSENT if content is None else hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands behind a group: the endpoints, and whether it embeds instead of chatting."""

    endpoints: tuple[str, ...] = ()
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class Push:
    """What every step is told: the gateway, its file, and the digests of the former and the new one.

    `name` is the workload of kind `runtime` that is restarted, and `ran` whether it ran; `text` is the new file,
    `groups` what it serves. `kept` is the digest of the copy that lay beside the file already, where taking the plan
    back is to bring back that, too.
    """

    node: str
    endpoint: str
    config: str
    former: str
    new: str
    runtime: str = ""
    name: str = ""
    ran: bool = True
    kept: str | None = None
    text: str = ""
    groups: Mapping[str, Behind] = field(default_factory=dict)

    def to_json(self, *needed: str) -> dict[str, JsonValue]:
        """As a step's arguments, with what only some steps need left out but for `needed`."""
        told: dict[str, JsonValue] = TypeAdapter(Push).dump_python(self, mode="json")
        return {key: value for key, value in told.items() if key not in ("text", "groups") or key in needed}


class GatewayStep:
    """What the steps share: the file, and the way back."""

    def __init__(self, step: Step, context: Context) -> None:
        try:
            self._told = TypeAdapter(Push).validate_python(dict(step.arguments))
        except ValidationError as error:
            raise ProcedureError(f'The step "{step.label}" cannot be read: {error.error_count()} mistakes.') from None
        self._context, self._clock = context, context.clock
        self._changed = False

    async def _file(self, ending: str = "") -> WholeFile:
        context, place = self._context, f"{self._told.config}{ending}"
        return await whole_file(place, self._told.node, context.here, context.shell, context.runtime)

    async def _runtime(self) -> Runtime:
        return await self._context.runtime(self._told.node, self._told.runtime)

    async def _restart(self) -> None:
        runtime = await self._runtime()
        await self._context.confirm()
        await runtime.stop(self._told.name, grace=GRACE)
        await runtime.start(self._told.name)

    async def _return(self) -> None:
        """Have the gateway run as it did, with its former file; broken off anywhere, it can be gone on with."""
        runtime = await self._runtime()
        await self._context.confirm()
        await runtime.stop(self._told.name, grace=GRACE)
        await self._restore()
        if self._told.ran:
            await runtime.start(self._told.name)

    async def _returned(self, report: Report) -> str:
        """As above, and waited for; how it is then."""
        await self._return()
        if not self._told.ran:
            return "stopped, as it was"
        await self._ready(report)
        return "ready with it"

    async def _restore(self) -> None:
        """Put the former file back, byte for byte."""
        file = await self._file()
        if digest(await file.read()) == self._told.former:
            return
        await self._context.confirm()
        if self._told.former == ABSENT:
            await file.remove()
            return
        kept = await file.kept()
        if kept is None or digest(kept) != self._told.former:
            raise ProcedureError(f"What was kept of {file.where} is not what was there: it is left as it is.")
        await file.write(kept)
        if digest(await file.read()) != self._told.former:
            raise ProcedureError(f"{file.where} could not be put back; it is kept as {file.where}{KEPT}.")

    async def _roll_back(self, report: Report, why: str) -> ProcedureError:
        """Put the former file back and have the gateway run with it again; what happened, as the error to raise."""
        report({"text": f"{why} Rolling back."})
        self._changed = False
        try:
            now = await self._returned(report)
        except ProcedureError as error:
            return ProcedureError(f"{why} The former file is back, but with it: {error.message}", error.advice)
        return ProcedureError(f"{why} The former file is back, byte for byte, and the gateway is {now}.")

    async def _ready_or_back(self, report: Report) -> str:
        """Wait until it is ready with the new file; where it is not, the former one comes back."""
        try:
            return await self._ready(report)
        except ProcedureError as error:
            why = f"The gateway does not come back with the new file: {error.message} {error.advice}".rstrip(". ")
            raise await self._roll_back(report, f"{why}.") from None

    async def _ready(self, report: Report) -> str:
        """Wait until the gateway says that it lives and is ready; ProcedureError where it ends, or does not in time."""
        begun = self._clock.now().mono
        while True:
            found = await self._context.probe(self._told.endpoint)
            waited = self._clock.now().mono - begun
            if found.cause in SERVING:
                return f"ready after {waited:.0f} s"
            state = await (await self._runtime()).state(self._told.name)
            if state.state in ("exited", "dead", "missing"):
                last = await self._last_words()
                raise ProcedureError(f"{self._told.name} ended by itself ({state.state}).", last)
            if waited >= READY_LIMIT:
                raise ProcedureError(f"It is not ready after {waited:.0f} s: {found.cause} {found.evidence}.")
            report({"text": f"not ready yet: {found.evidence}", "gate": "ready", "waited_s": round(waited, 1)})
            await self._clock.sleep(LOOK)

    async def _last_words(self) -> str:
        """The last line of its log that says what is wrong."""
        try:
            async with (await self._runtime()).logs(self._told.name, tail=40) as lines:
                found = [line.strip() async for line in lines]
        except ReachError:
            return ""
        faults = [line for line in found if "error" in line.lower() or "exception" in line.lower()]
        return f"It said: {(faults or found)[-1][:200]}" if found else ""

    async def undo(self) -> None:
        """Where this step changed something: the former file, and the gateway restarted with it."""
        if self._changed:
            self._changed = False
            await self._return()


class KeepFile(GatewayStep):
    """Keeps a copy of the file beside it."""

    async def check(self) -> str:
        """It is kept already, or there is nothing to keep."""
        if self._told.former == ABSENT:
            return "there is no former file"
        file = await self._file()
        return "it is kept already" if digest(await file.kept()) == self._told.former else ""

    async def apply(self, report: Report) -> None:
        """Copy it, if it is still the file that was planned for."""
        file = await self._file()
        if digest(await file.read()) != self._told.former:
            raise planned_for_another(file)
        await self._context.confirm()
        if self._told.kept not in (None, ABSENT, self._told.former):
            await (await self._file(KEPT)).keep()
        await file.keep()

    async def verify(self, report: Report) -> str:
        """The copy is the same, byte for byte."""
        file = await self._file()
        if digest(await file.kept()) != self._told.former:
            raise ProcedureError(f"The copy of {file.where} is not what it is to be.", "Is there room?")
        return f"kept as {file.where}{KEPT}"

    async def revert(self, report: Report) -> str:
        """The copy that lay there before, or none; a push alone leaves its copy, whatever comes."""
        copy = await self._file(KEPT)
        if self._told.kept is None or digest(await copy.read()) == self._told.kept:
            return ""
        await self._context.confirm()
        if self._told.kept == ABSENT:
            await copy.remove()
            return f"{copy.where} is removed"
        earlier = await copy.kept()
        if earlier is None or digest(earlier) != self._told.kept:
            raise ProcedureError(f"The copy that lay at {copy.where} before is not there any more.")
        await copy.write(earlier)
        await (await self._file(KEPT + KEPT)).remove()
        return f"{copy.where} is as it was"


class WriteFile(GatewayStep):
    """Writes the new file."""

    async def check(self) -> str:
        """It is there already."""
        return "it is there already" if digest(await (await self._file()).read()) == self._told.new else ""

    async def apply(self, report: Report) -> None:
        """Write it whole, over the file that was planned for and no other."""
        file = await self._file()
        if digest(await file.read()) != self._told.former:
            raise planned_for_another(file)
        await self._context.confirm()
        self._changed = True
        await file.write(self._told.text.encode())

    async def verify(self, report: Report) -> str:
        """Read it back."""
        file = await self._file()
        if digest(await file.read()) != self._told.new:
            raise ProcedureError(f"{file.where} is not what was written.", "Is there room, and nobody else at it?")
        return f"{file.where} is written"

    async def undo(self) -> None:
        """The former file; the gateway has not read the new one yet."""
        if self._changed:
            await self._restore()

    async def revert(self, report: Report) -> str:
        """The former file, where the new one is there still, and the gateway as it was; so, too, where it was left."""
        file = await self._file()
        found = digest(await file.read())
        if found != self._told.new and (found != self._told.former or not await self._left()):
            return ""
        return f"{file.where} is as it was, and the gateway is {await self._returned(report)}"

    async def _left(self) -> bool:
        """Whether it was stopped to get its former file, and nobody started it any more."""
        return self._told.ran and not (await (await self._runtime()).state(self._told.name)).running


class RestartGateway(GatewayStep):
    """Restarts the gateway and waits until it is ready; where it is not, the former file comes back."""

    async def check(self) -> str:
        """It has to be restarted to read its file."""
        return ""

    async def apply(self, report: Report) -> None:
        """Restart it, if it will read what was planned."""
        file = await self._file()
        if digest(await file.read()) != self._told.new:
            raise planned_for_another(file)
        self._changed = True
        report({"text": f"restarting {self._told.name}"})
        await self._restart()

    async def verify(self, report: Report) -> str:
        """Ready, asked by /health/liveliness and /health/readiness."""
        self._changed = True
        return await self._ready_or_back(report)


class AskGateway(GatewayStep):
    """Asks the gateway for its groups, and each for an answer; where one is worse, the former file comes back."""

    async def check(self) -> str:
        """It is always asked."""
        return ""

    async def apply(self, report: Report) -> None:
        """Asking changes nothing but what models are loaded."""

    async def verify(self, report: Report) -> str:
        """Every group answers, but for those behind which nothing serves."""
        file = await self._file()
        if digest(await file.read()) != self._told.new:
            raise planned_for_another(file)
        self._changed = True
        try:
            listed = await self._context.listed(self._told.endpoint)
        except ReachError as error:
            raise await self._roll_back(report, f"The gateway does not name its groups: {error.message}") from None
        missing = [group for group in self._told.groups if group not in listed and "*" not in group]
        if missing:
            why = f"The gateway does not name {', '.join(missing[:5])}."
            raise await self._roll_back(report, why)
        answered, silent = 0, []
        for group, behind in self._told.groups.items():
            report({"text": f"asking {group}"})
            said = await self._context.prompt(self._told.endpoint, group, behind.embeds)
            if not said:
                answered += 1
            elif serving := await self._serving(behind):
                raise await self._roll_back(report, f"{group} gives no answer, but {serving} serves: {said}.")
            else:
                silent.append(group)
        more = f"; nothing that serves is behind {', '.join(silent)}" if silent else ""
        return f"{answered} of {len(self._told.groups)} groups answer{more}"

    async def _serving(self, behind: Behind) -> str:
        """The first of the endpoints behind a group that serves; "" where none does."""
        for name in behind.endpoints:
            if (await self._context.probe(name)).cause in SERVING:
                return name
        return ""


def planned_for_another(file: WholeFile) -> ProcedureError:
    """The refusal to write over a file that is not the one that was planned for."""
    return ProcedureError(f"{file.where} is not as it was when this was planned.", "Plan anew: tierdeck gateway push")


GATEWAY_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "keep_gateway_file": KeepFile,
    "write_gateway_file": WriteFile,
    "restart_gateway": RestartGateway,
    "ask_gateway": AskGateway,
}
"""The kinds of steps of a push, for the registry."""
