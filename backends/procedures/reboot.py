"""Plans and does a reboot: the node left alone, its work ended, gone and back, its queue started, in care again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from pydantic import JsonValue

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Node
from backends.errors import CommandError, ProcedureError, ReachError, SshError
from backends.maintenance import Maintenance
from backends.procedures.away import Leaving
from backends.procedures.booted import boot_mark, is_same_boot
from backends.procedures.context import Context, residence
from backends.procedures.plan import Danger, Plan, Step
from backends.procedures.recovery import SOON, after, desktop_step
from backends.procedures.rung_words import reboot_command
from backends.procedures.rungs import LOOK, Rung
from backends.procedures.runner import Report, StepKind
from backends.procedures.standdown import returning, stand_down_step
from backends.procedures.startup import blast
from backends.reach.runtime import Shell

DRAIN: Final = 600.0
"""Seconds for which requests in flight are waited for; then a person says whether they are interrupted."""

GONE: Final = 300.0
"""Seconds for a machine to go down; Windows may install updates first."""

BACK: Final = 900.0
"""Seconds for it to come back: memory training, a file system check."""

COMMAND_LIMIT: Final = 30.0
"""Seconds for the command itself; its connection may break before it ends."""

LEFT_ALONE: Final = DRAIN + GONE + BACK + 3600.0
"""Seconds of maintenance, should nobody end it: what the plan may take with a long start queue."""


def plan_reboot(inventory: Inventory, snapshot: ClusterSnapshot, node: str, mark: str, leaving: Leaving) -> Plan:
    """The reboot of a node that was booted at `mark`; ProcedureError where it cannot be done from here."""
    table = inventory.node_named[node]
    if snapshot.here == node:
        raise ProcedureError(
            f"{node} is this machine: the procedure would end with it.", "Run it from another machine."
        )
    kept = snapshot.maintenance.get(node, 0.0) > (snapshot.taken.wall if snapshot.taken else 0.0)
    state = snapshot.nodes[node]
    own = {residence(e) for e in inventory.endpoints if e.node == node}
    own |= set(returning(inventory, table))
    running = [w for w in state.workloads if w.running]
    interrupted = blast(inventory, snapshot, node, [w.name for w in running if w.name in own])
    steps = _before(inventory, table, mark, leaving, kept=kept, busy=bool(interrupted.interrupts))
    steps += [*_back(table), *leaving.back]
    others = [w.name for w in running if w.name not in own]
    return Plan(
        kind="reboot",
        node=node,
        title=f"Reboot {node}",
        steps=(*steps, *([] if kept else [Step("end_maintenance", f"{node} in care again", {"node": node})])),
        blast=replace(interrupted, interrupts=(*interrupted.interrupts, *leaving.interrupts)),
        warnings=(*_warnings(node, others, kept=kept), *leaving.remarks),
    )


def _before(inventory: Inventory, node: Node, mark: str, leaving: Leaving, *, kept: bool, busy: bool) -> list[Step]:
    here = {"node": node.name}
    steps = []
    if not kept:
        label = f"leave {node.name} alone: out of verdicts, alerts and routes"
        command = f"tierdeck maintenance {node.name} --for {LEFT_ALONE / 60:.0f}m"
        steps.append(Step("begin_maintenance", label, dict(here), 30.0, Danger.CHANGES, command))
    steps += leaving.out
    if any(e.node == node.name for e in inventory.endpoints):
        steps.append(Step("drain", f"wait for requests in flight on {node.name}", dict(here), DRAIN + 60))
    danger = Danger.INTERRUPTS if busy else Danger.CHANGES
    if node.kubernetes is not None:
        steps.append(stand_down_step(node, danger))
    shown, limit = reboot_command(node).shown, COMMAND_LIMIT + GONE + BACK + 60
    return [*steps, Step("reboot", f"reboot {node.name}", {**here, "mark": mark}, limit, danger, shown)]


def _back(node: Node) -> list[Step]:
    """As after a machine was woken: its Docker may come only with a desktop session."""
    steps = []
    if node.docker is not False and node.wake is not None and node.wake.rdp is not None:
        soon: dict[str, JsonValue] = {"node": node.name, "limit": SOON}
        steps.append(Step("wait_docker", f"wait for Docker on {node.name}", soon, SOON + 30, may_fail=True))
        steps.append(desktop_step(node, unattended=False))
    return [*steps, *after(node)]


def _warnings(node: str, others: list[str], *, kept: bool) -> Iterable[str]:
    if others:
        yield f"Stops with it, and comes back only if its restart policy says so: {', '.join(others)}."
    if kept:
        yield f"{node} is under maintenance already; that is left as it is."


class BeginMaintenance:
    """Leaves the node out of verdicts, alerts and routes."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context = context
        self._node = str(step.arguments["node"])

    @property
    def _kept(self) -> Maintenance:
        if self._context.maintenance is None:
            raise ProcedureError("Nothing here remembers maintenance.")
        return self._context.maintenance

    @property
    def _now(self) -> float:
        return self._context.clock.now().wall

    async def check(self) -> str:
        """It is begun anew where the procedure is resumed later."""
        return ""

    async def apply(self, report: Report) -> None:
        """Say so, for longer than all of this may take."""
        self._kept.begin(self._node, self._now + LEFT_ALONE, self._now)

    async def verify(self, report: Report) -> str:
        """It is said."""
        return f"{self._node} is left alone"

    async def undo(self) -> None:
        """A node whose reboot was broken off is better left alone until somebody has looked."""


class EndMaintenance(BeginMaintenance):
    """Takes it under care again."""

    async def check(self) -> str:
        """Somebody may have ended it already."""
        said = self._kept.read()
        return "" if said.get(self._node, 0.0) > self._now else "its maintenance is over already"

    async def apply(self, report: Report) -> None:
        """Say that it is over."""
        self._kept.end(self._node, self._now)

    async def verify(self, report: Report) -> str:
        """It is over."""
        return f"{self._node} is watched and asked again"


class Drain:
    """Waits until no engine of the node works at a request; what does not tell is not waited for."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context, self._clock = context, context.clock
        self._node = str(step.arguments["node"])
        self._endpoints = [e.name for e in context.inventory.endpoints if e.node == self._node]

    async def check(self) -> str:
        """Nothing runs now."""
        return "" if await self._busy() else "no request is in flight, as far as its engines tell"

    async def apply(self, report: Report) -> None:
        """Waiting changes nothing."""

    async def verify(self, report: Report) -> str:
        """No request is in flight; ProcedureError after the limit."""
        begun = self._clock.now().mono
        while busy := await self._busy():
            words = ", ".join(f"{name}: {count}" for name, count in busy.items())
            waited = self._clock.now().mono - begun
            if waited >= DRAIN:
                raise ProcedureError(
                    f"{self._node} still works after {waited:.0f} s ({words} in flight).",
                    "Skip this step to interrupt them, or retry.",
                )
            report({"text": f"in flight: {words}", "gate": "drain", "waited_s": round(waited, 1)})
            await self._clock.sleep(LOOK)
        return "no request is in flight"

    async def _busy(self) -> dict[str, int]:
        results = await asyncio.gather(*(self._context.probe(name) for name in self._endpoints))
        counts = {
            name: (result.progress.running or 0) + (result.progress.waiting or 0)
            for name, result in zip(self._endpoints, results, strict=True)
            if result.progress is not None
        }
        return {name: count for name, count in counts.items() if count}

    async def undo(self) -> None:
        """Nothing was changed."""


class Reboot(Rung):
    """Reboots a machine, and waits until it was gone and is back."""

    @property
    def _mark(self) -> str:
        return str(self._arguments["mark"])

    async def check(self) -> str:
        """It was booted since the plan."""
        try:
            mark = await boot_mark(self._node, self._shell)
        except ReachError:
            return ""
        return "" if is_same_boot(mark, self._mark) else "it was booted since the plan was made"

    async def apply(self, report: Report) -> None:
        """Run the command; that its connection breaks is what is wanted."""
        command = reboot_command(self._node)
        stdin = b""
        if command.sudo is not None:
            stdin = (await self._touch.secret(command.sudo)).get_secret_value().encode() + b"\n"
        await self._context.confirm()
        try:
            done = await self._shell.run(command.argv, stdin=stdin, timeout=COMMAND_LIMIT)
        except (SshError, TimeoutError):
            return
        except CommandError as error:
            if error.status is not None:
                raise
            return
        if done.status:
            raise ProcedureError(*command.refused(done))

    async def verify(self, report: Report) -> str:
        """Another boot, or, where SSH comes only with a desktop session, a machine that was gone and answers."""
        gone: list[float] = []
        begun = self._clock.now().mono

        async def look() -> str:
            waited = self._clock.now().mono - begun
            try:
                mark = await boot_mark(self._node, self._shell)
            except ReachError:
                said = await self._touch.alive(self._node.name)
                if not said and not gone:
                    gone.append(waited)
                    report({"text": f"gone after {waited:.0f} s"})
                return f"back after {waited:.0f} s, without SSH yet: {said}" if said and gone else ""
            if not is_same_boot(mark, self._mark):
                return f"booted anew: back after {waited:.0f} s"
            if waited >= GONE and not gone:
                raise ProcedureError(
                    f"{self._node.name} has not gone down within {GONE:.0f} s.",
                    "A hanging driver may keep it: power it off and on, then resume this procedure.",
                )
            return ""

        told = await self._until(GONE + BACK, "waiting for it to be back", report, look)
        self._context.outages.missed()
        return told

    @property
    def _shell(self) -> Shell:
        return self._context.shell(self._node.name)


REBOOT_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "begin_maintenance": BeginMaintenance,
    "end_maintenance": EndMaintenance,
    "drain": Drain,
    "reboot": Reboot,
}
