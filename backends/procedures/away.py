"""Takes a node out of the gateway's file while it is away, and puts it back as it was, byte for byte.

What is written while the node is away is made anew from the file when it is needed: a plan holds no text of a file that
may have keys in it, only digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from backends.errors import GatewayError, ProcedureError, ReachError
from backends.procedures.booted import boot_mark, is_same_boot
from backends.procedures.context import Context
from backends.procedures.gateway import GatewayStep, digest, planned_for_another
from backends.procedures.plan import Step
from backends.procedures.runner import Report, StepKind
from backends.reach.whole_file import KEPT


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a node leaves the gateway and comes back: steps, the requests they interrupt, and what is to be known."""

    out: tuple[Step, ...] = ()
    back: tuple[Step, ...] = ()
    interrupts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def decoded(content: bytes, place: str) -> str:
    """The text of a gateway's file; GatewayError where it is none."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise GatewayError(f"{place} is no text: byte {error.start} is not UTF-8.") from None


class _Leaves(GatewayStep):
    """What both share: the node that is away, whose lease cannot be asked for meanwhile."""

    def __init__(self, step: Step, context: Context) -> None:
        async def confirm() -> None:
            with suppress(ReachError):
                await context.confirm()

        super().__init__(step, replace(context, confirm=confirm))
        self._away, self._mark = str(step.arguments["away"]), str(step.arguments["mark"])


class LeaveGateway(_Leaves):
    """Writes the file without the node, and restarts the gateway with it."""

    async def check(self) -> str:
        """It is out already, or was booted since: then there is nothing to be out for."""
        if digest(await (await self._file()).read()) == self._told.new:
            return "it is out already"
        context = self._context
        try:
            mark = await boot_mark(context.inventory.node_named[self._away], context.shell(self._away))
        except ReachError:
            return ""
        return "" if is_same_boot(mark, self._mark) else f"{self._away} was booted since the plan was made"

    async def apply(self, report: Report) -> None:
        """Write what is left of the file that was planned for."""
        from backends.gateway.without import without

        file = await self._file()
        former = await file.read()
        if former is None or digest(former) != self._told.former:
            raise planned_for_another(file)
        left = without(decoded(former, file.where), self._context.inventory, self._away, file.where)
        if left is None or digest(left.text.encode()) != self._told.new:
            raise planned_for_another(file)
        await self._context.confirm()
        self._changed = True
        await file.write(left.text.encode())

    async def verify(self, report: Report) -> str:
        """Restarted, for nobody knows otherwise which file it has read, and ready; else the former file is back."""
        file = await self._file()
        if digest(await file.read()) != self._told.new:
            raise planned_for_another(file)
        self._changed = True
        await self._restart()
        return f"{self._told.endpoint} is without {self._away}: {await self._ready_or_back(report)}"


class RejoinGateway(_Leaves):
    """Puts the former file back, byte for byte, and restarts the gateway with it."""

    async def check(self) -> str:
        """It is back already, or never was out."""
        return "its file is as it was" if digest(await (await self._file()).read()) == self._told.former else ""

    async def apply(self, report: Report) -> None:
        """Put back what was kept, over what this procedure wrote and nothing else."""
        file = await self._file()
        if digest(await file.read()) != self._told.new:
            raise ProcedureError(
                f"{file.where} was changed by somebody meanwhile, and is left as it is.",
                f"What was there before is kept as {file.where}{KEPT}.",
            )
        await self._restore()

    async def verify(self, report: Report) -> str:
        """Restarted, for nobody knows otherwise which file it has read, and ready."""
        await self._restart()
        return f"its file is as it was, byte for byte; {await self._ready(report)}"


LEAVE_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "leave_gateway": LeaveGateway,
    "rejoin_gateway": RejoinGateway,
}
"""The kinds of steps of leaving and coming back, for the registry."""
