"""On-demand models: started when asked for, if they fit; others on demand make room, the least recently used first."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import ProcedureError
from backends.procedures import gate
from backends.procedures.context import Context, endpoints_in, residence, title
from backends.procedures.plan import Danger, Plan, Step
from backends.procedures.runner import Report, StepKind
from backends.procedures.startup import blast, plan_queue
from backends.procedures.trouble import call

MARGIN: Final = 1.05
"""By how much more memory has to be free than its past starts took."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What the step is told."""

    node: str
    name: str
    runtime: str = "docker"


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What a prompt for an on-demand endpoint that is off would cost: its start, as `plan` has it.

    `seconds` is what its past starts took, None where there was none.
    """

    endpoint: str
    plan: Plan
    seconds: float | None

    @property
    def stops(self) -> tuple[str, ...]:
        """Who makes room for it."""
        return tuple(str(step.arguments["name"]) for step in self.plan.steps if step.kind == "stop_idle")

    @property
    def words(self) -> str:
        """All of that in a line."""
        lasting = "how long is not known" if self.seconds is None else f"about {self.seconds:.0f} s"
        stops = f"; stops {', '.join(self.stops)}" if self.stops else ""
        return f"cold: {self.endpoint} would have to start, {lasting}{stops}"


class StopIdle:
    """Stops a workload that does nothing; one that answers somebody is left alone."""

    def __init__(self, step: Step, context: Context) -> None:
        try:
            self._told = TypeAdapter(Stop).validate_python(dict(step.arguments))
        except ValidationError as error:
            raise ProcedureError(f'The step "{step.label}" cannot be read: {error.error_count()} mistakes.') from None
        self._context = context

    async def check(self) -> str:
        """It does not run."""
        return "" if (await self._state()).running else "it does not run"

    async def apply(self, report: Report) -> None:
        """Ask its engines once more, then stop it; ProcedureError where one is at work."""
        told, context = self._told, self._context
        for endpoint in endpoints_in(context.inventory, told.node, title(Workload(told.name, told.runtime, ""))):
            progress = (await context.probe(endpoint.name)).progress
            if progress is not None and progress.works:
                raise ProcedureError(f"{endpoint.name} answers somebody just now.", "Try again when it is done.")
        await context.confirm()
        await (await context.runtime(told.node, told.runtime)).stop(told.name)

    async def verify(self, report: Report) -> str:
        """It has ended, and its memory has come back as far as it can be read."""
        if (await self._state()).running:
            raise ProcedureError(f"{self._told.name} still runs.")
        clock, gauge = self._context.clock, gate.Gauge()
        until = clock.now().mono + gate.STEADY_LIMIT
        while clock.now().mono < until:
            gauge.add(clock.now().mono, await self._context.vram(self._told.node))
            if gauge.mib is None or gate.is_steady(gauge.samples):
                break
            await clock.sleep(gate.SAMPLE)
        return f"{self._told.name} is stopped"

    async def undo(self) -> None:
        """What was stopped stays so."""

    async def _state(self) -> Workload:
        return await (await self._context.runtime(self._told.node, self._told.runtime)).state(self._told.name)


def found(inventory: Inventory, word: str) -> Endpoint:
    """The on-demand endpoint that is meant: by its name, its container, or the model it serves."""
    endpoints = [e for e in inventory.endpoints if e.node and residence(e)]
    named = [e for e in endpoints if word in (e.name, residence(e), e.model)]
    if not named:
        known = [e.name for e in endpoints if e.on_demand]
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
        said = f'Did you mean "{near[0]}"?' if near else f"On demand: {', '.join(known) or 'none'}."
        raise ProcedureError(f'There is no endpoint, container or model "{word}".', said)
    on_demand = [e for e in named if e.on_demand]
    if not on_demand:
        raise ProcedureError(f"{named[0].name} is not on demand.", f"Start it: tierdeck queue run {named[0].node}")
    return on_demand[0]


def plan_up(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    endpoint: Endpoint,
    *,
    need: Callable[[str, str], float | None],
    used: Mapping[str, float],
) -> Plan:
    """Start an endpoint, and stop others on demand of its node where it would not fit beside them.

    `need` is what a container took of the GPUs in past starts, in MiB; `used` is when each endpoint worked last, in
    Unix seconds. Where a scheduler hands out the GPUs of the node, their number is what counts. ProcedureError, with
    the figures, where even that does not suffice: what always runs is never stopped.
    """
    node, name = str(endpoint.node), residence(endpoint)
    plan = plan_queue(inventory, snapshot, node, only=[name])
    room = _room(snapshot, node, name, need)
    wanted, free = room.takes(name), room.free
    warnings = list(plan.warnings)
    leaving: Sequence[Workload] = ()
    if wanted is None or free is None:
        warnings.append(f"Whether {endpoint.name} fits is not known: nothing is stopped for it.")
    elif plan.targets:
        leaving = _leaving(inventory, snapshot, endpoint, wanted * room.margin - free, room.takes, used)
        gained = sum(room.takes(title(w)) or 0.0 for w in leaving)
        if wanted * room.margin > free + gained:
            raise ProcedureError(
                f"{endpoint.name} takes about {room.words(wanted)}; {room.words(free)} are free on {node}, and "
                f"{room.words(gained)} more without what is on demand there.",
                "What always runs is not stopped for it.",
            )
    return Plan(
        kind="up",
        node=node,
        title=f"Start {endpoint.name}" + (f", in the place of {', '.join(w.name for w in leaving)}" if leaving else ""),
        steps=(*(stop_step(node, w) for w in leaving), *plan.steps),
        blast=blast(inventory, snapshot, node, [title(w) for w in leaving]),
        warnings=tuple(warnings),
        targets=plan.targets,
    )


def plan_down(inventory: Inventory, snapshot: ClusterSnapshot, endpoint: Endpoint, why: str) -> Plan:
    """Stop an on-demand endpoint that has nothing to do."""
    node = str(endpoint.node)
    workload = next((w for w in snapshot.nodes[node].workloads if title(w) == residence(endpoint)), None)
    if workload is None:
        raise ProcedureError(f"{node} has no {residence(endpoint)}.")
    return Plan("down", node, f"Stop {endpoint.name}: {why}", (stop_step(node, workload),), targets=(title(workload),))


def stop_step(node: str, workload: Workload) -> Step:
    """The step that stops one that is idle."""
    arguments: dict[str, JsonValue] = asdict(Stop(node, workload.name, workload.runtime))
    command = call(workload.runtime, "stop", workload.name)
    return Step("stop_idle", f"stop {title(workload)}, if it is idle", arguments, 120.0, Danger.CHANGES, command)


def free_mib(snapshot: ClusterSnapshot, node: str) -> float | None:
    """GPU memory of a node that nobody holds, in MiB; None where a driver does not tell."""
    gpus = snapshot.nodes[node].gpus
    known = [
        g.memory_total_mib - g.memory_used_mib for g in gpus if g.memory_total_mib and g.memory_used_mib is not None
    ]
    return sum(known) if gpus and len(known) == len(gpus) else None


@dataclass(frozen=True, slots=True)
class _Room:
    """What is free on a node, and what each workload takes of it; None is "not known"."""

    free: float | None
    takes: Callable[[str], float | None]
    margin: float
    words: Callable[[float], str]


def _room(snapshot: ClusterSnapshot, node: str, name: str, need: Callable[[str, str], float | None]) -> _Room:
    """GPU memory; where a scheduler hands out GPUs by numbers, that of which there are fewest for `name`."""
    asked = {title(w): dict(w.asks) for w in snapshot.nodes[node].workloads}
    free = {d.name: d.allocatable - d.requested for d in snapshot.nodes[node].devices}
    wanted = [device for device in asked.get(name, {}) if device in free]
    if not wanted:
        return _Room(free_mib(snapshot, node), partial(need, node), MARGIN, lambda mib: f"{mib / 1024:.1f} GiB")
    device = min(wanted, key=lambda each: free[each] - asked[name][each])
    return _Room(
        free[device], lambda other: asked.get(other, {}).get(device), 1.0, lambda count: f"{count:.0f} {device}"
    )


def _leaving(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    endpoint: Endpoint,
    missing: float,
    takes: Callable[[str], float | None],
    used: Mapping[str, float],
) -> Sequence[Workload]:
    """Those on demand that run on its node, the least recently used first, until enough comes free."""
    node = str(endpoint.node)
    running = {title(w): w for w in snapshot.nodes[node].workloads if w.running and w.gpu}
    here = [e for e in inventory.endpoints if e.node == node]
    kept = {residence(e) for e in here if not e.on_demand} | {residence(endpoint)}
    kept |= {residence(e) for e in here if (work := snapshot.endpoints[e.name].progress) and work.works}
    others = [e for e in here if e.on_demand and residence(e) in running and residence(e) not in kept]
    chosen: list[Workload] = []
    for other in sorted(others, key=lambda e: used.get(e.name, running[residence(e)].started_at or 0.0)):
        gain = takes(residence(other))
        if missing <= 0:
            break
        if gain and running[residence(other)] not in chosen:
            chosen.append(running[residence(other)])
            missing -= gain
    return chosen


DEMAND_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {"stop_idle": StopIdle}
