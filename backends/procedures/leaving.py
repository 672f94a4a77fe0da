"""Takes a node out of the gateway's file while it is away, and puts it back as it was, byte for byte.

What is written while the node is away is made anew from the file when it is needed: a plan holds no text of a file that
may have keys in it, only digests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import GatewayError, ProcedureError, ReachError, TierdeckError
from backends.gateway.without import MARK, Without, without
from backends.procedures.booted import boot_mark, is_same_boot
from backends.procedures.context import Context, residence
from backends.procedures.gateway import READY_LIMIT, GatewayStep, Push, digest, planned_for_another
from backends.procedures.plan import Danger, Step
from backends.procedures.pushing import keep_step, place_of, restart_call, runs_in
from backends.procedures.runner import Report, StepKind
from backends.reach.whole_file import KEPT

_LIMIT: Final = 2 * READY_LIMIT + 120.0
"""Seconds for a restart, and for another with the former file where the first fails."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a node leaves the gateway and comes back: steps, the requests they interrupt, and what is to be known."""

    out: tuple[Step, ...] = ()
    back: tuple[Step, ...] = ()
    interrupts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


async def prepare_leaving(
    inventory: Inventory, snapshot: ClusterSnapshot, node: str, mark: str, read: Callable[[], Awaitable[bytes | None]]
) -> Leaving:
    """How `node`, booted at `mark`, leaves the gateway, whose file is `read`; no steps, and why, where it cannot.

    ProcedureError where a node is out of that file already.
    """
    gateway = inventory.gateway_endpoint
    fronts = [e.name for e in inventory.endpoints if e.engine == "litellm" and e.node != node]
    if gateway is None:
        return Leaving(remarks=tuple(_stay(fronts, node)) or (f"cluster.toml names no gateway to take {node} out of.",))
    rest = tuple(_stay((name for name in fronts if name != gateway.name), node))
    if gateway.node == node:
        return Leaving(remarks=(f"{gateway.name} runs on {node}: it is away with it, its file stays as it is.", *rest))
    try:
        former = await read()
        if former is None:
            raise GatewayError(f"There is no {place_of(inventory)}.")
        text = _decoded(former, place_of(inventory))
        short = text.startswith(MARK)
        left = None if short else without(text, inventory, node, place_of(inventory))
        found = None if left is None else _steps(inventory, snapshot, gateway, node, mark, former, left)
    except TierdeckError as error:
        return Leaving(remarks=(*_stay(fronts, node), f"It cannot be taken out: {error}"))
    if short:
        raise ProcedureError(
            f"{gateway.name} is without a node already: a reboot is under way, or was broken off.",
            f"Wait, or resume it (tierdeck procedures); or put {place_of(inventory)}{KEPT} back by hand.",
        )
    if found is None:
        return Leaving(remarks=(f"{gateway.name} leads nowhere on {node}; its file stays as it is.", *rest))
    return replace(found, remarks=(*found.remarks, *rest))


def _stay(fronts: Iterable[str], node: str) -> Iterable[str]:
    if names := ", ".join(fronts):
        yield f"{names} goes on sending requests to {node} until it sees that nobody answers."


def _decoded(content: bytes, place: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise GatewayError(f"{place} is no text: byte {error.start} is not UTF-8.") from None


def _steps(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    gateway: Endpoint,
    node: str,
    mark: str,
    former: bytes,
    left: Without,
) -> Leaving:
    place, serving = place_of(inventory), snapshot.endpoints[gateway.name].serving
    new = digest(left.text.encode())
    told = Push(gateway.node or "", gateway.name, place, digest(former), new, *runs_in(gateway))
    arguments = told.to_json() | {"away": node, "mark": mark}
    danger = Danger.INTERRUPTS if serving else Danger.CHANGES
    restart, groups = restart_call(told), ", ".join(left.groups)
    out = Step(
        "leave_gateway", f"take {node} out of {gateway.name}: {groups}", dict(arguments), _LIMIT, danger,
        f"replace {place} whole, without {node}; {restart}",
    )  # fmt: skip
    back = Step(
        "rejoin_gateway", f"put {node} back into {gateway.name}, however this ends", dict(arguments), _LIMIT, danger,
        f"{place}{KEPT} becomes {place} again; {restart}", always=True,
    )  # fmt: skip
    remarks = [f"{residence(gateway)} is restarted twice, and answers nobody while it starts."]
    remarks += [f"{gateway.name} meanwhile answers {group} by {other}." for group, other in left.stand_ins.items()]
    if left.unserved:
        remarks.append(f"Through {gateway.name} nobody serves {', '.join(left.unserved)} meanwhile.")
    interrupts = (f"every request that {gateway.name} is answering when it restarts",) if serving else ()
    return Leaving((keep_step(told), out), (back,), interrupts, tuple(remarks))


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
        file = await self._file()
        former = await file.read()
        if former is None or digest(former) != self._told.former:
            raise planned_for_another(file)
        left = without(_decoded(former, file.where), self._context.inventory, self._away, file.where)
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
