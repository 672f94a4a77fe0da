"""The fold: one reading at a time into the snapshot.

Pure: the same readings give the same snapshots, live, in tests and in replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from backends.cluster.chats import after_chat, cooled
from backends.cluster.compare import well_of
from backends.cluster.findings import findings, held
from backends.cluster.health import is_off, is_starting, next_state, rounded_age, tier_state, with_age
from backends.cluster.inventory import Inventory
from backends.cluster.prognosis import prognosis
from backends.cluster.reading import (
    ChatReading,
    EndpointReading,
    Facts,
    FactsReading,
    GpuReading,
    Instant,
    MaintenanceReading,
    PredictionReading,
    ProcedureReading,
    ReachReading,
    Reading,
    Tick,
    Workload,
    WorkloadReading,
)
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, NodeState, TierState
from backends.cluster.tables import Endpoint, Node
from backends.cluster.words import VERDICT_OF, Cause, Verdict
from backends.cluster.work import Limits

LASTING: Final = 30.0
"""Seconds for which it must work before that counts as how it works; a finding comes within them."""

CLOCK_WOBBLE: Final = 30.0
"""Seconds by which a boot time may seem to move while a clock is set right."""


def empty(inventory: Inventory, here: str | None = None) -> ClusterSnapshot:
    """A snapshot in which nothing has been read yet."""
    endpoints = {e.name: EndpointState(e.name) for e in inventory.lamps}
    nodes = {n.name: NodeState(n.name, here=n.name == here) for n in inventory.nodes}
    tiers = _tiers(inventory, endpoints)
    return ClusterSnapshot(inventory.name, here, endpoints, tiers, nodes, prognosis(inventory, endpoints, tiers))


def fitted(snapshot: ClusterSnapshot, before: Inventory, after: Inventory) -> ClusterSnapshot:
    """The snapshot as a changed inventory has it: what stays keeps its state, what is new has not been read yet.

    An endpoint that is asked otherwise now is new; a node is known by its name.
    """
    fresh, had = empty(after, snapshot.here if snapshot.here in after.node_named else None), before.endpoint_named
    endpoints = {
        name: snapshot.endpoints[name] if had.get(name) == after.endpoint_named[name] else state
        for name, state in fresh.endpoints.items()
    }
    tiers = _tiers(after, endpoints)
    return replace(
        snapshot,
        name=fresh.name,
        here=fresh.here,
        endpoints=endpoints,
        tiers=tiers,
        nodes={name: snapshot.nodes.get(name, state) for name, state in fresh.nodes.items()},
        prognosis=prognosis(after, endpoints, tiers),
        predicted=tuple(each for each in snapshot.predicted if each.endpoint in endpoints),
        findings=tuple(each for each in snapshot.findings if each.endpoint in endpoints),
    )


def fold(inventory: Inventory, snapshot: ClusterSnapshot, reading: Reading) -> ClusterSnapshot:
    """The snapshot after one more reading."""
    return fold_all(inventory, snapshot, (reading,))


def fold_all(inventory: Inventory, snapshot: ClusterSnapshot, readings: Sequence[Reading]) -> ClusterSnapshot:
    """The snapshot after several readings, in their order."""
    draft = Draft(inventory, snapshot)
    for reading in readings:
        draft.take(reading)
    return draft.finished()


class Draft:
    """A snapshot in the making: readings are folded in one by one, what is judged of the whole once, when it is done.

    A live cluster takes each reading as it comes: those of a second at once would hold up a key.
    """

    def __init__(self, inventory: Inventory, before: ClusterSnapshot) -> None:
        self.readings: list[Reading] = []
        self._inventory = inventory
        self._before = before
        self._endpoints, self._nodes = dict(before.endpoints), dict(before.nodes)
        self._whole = replace(before, endpoints=self._endpoints, nodes=self._nodes)
        self._taken = before.taken

    def take(self, reading: Reading) -> None:
        """Fold in one more reading; one about nobody in the inventory changes nothing."""
        self.readings.append(reading)
        endpoints, nodes = self._endpoints, self._nodes
        match reading:
            case EndpointReading(endpoint=name) if name in endpoints:
                endpoints[name] = _judge(self._inventory, self._whole, reading)
            case ChatReading(endpoint=name) if name in endpoints:
                endpoints[name] = after_chat(endpoints[name], reading)
            case GpuReading(node=name) if name in nodes:
                nodes[name] = _with_gpus(self._inventory.node_named[name], nodes[name], reading)
            case WorkloadReading(node=name) if name in nodes:
                nodes[name] = _with_workloads(nodes[name], reading)
            case FactsReading(node=name) if name in nodes:
                nodes[name] = _with_facts(nodes[name], reading.facts)
            case ReachReading(node=name) if name in nodes:
                nodes[name] = replace(nodes[name], reach_trouble=reading.trouble, reach_taken=reading.at)
            case ProcedureReading():
                self._whole = replace(self._whole, procedures=reading.procedures)
            case MaintenanceReading():
                self._whole = replace(self._whole, maintenance=reading.until)
                _maintain(self._inventory, self._whole, endpoints, reading.at)
            case PredictionReading():
                self._whole = replace(self._whole, predicted=reading.predictions)
            case Tick():
                self._pass(reading.at)
            case _:
                return
        self._taken = reading.at

    def _pass(self, now: Instant) -> None:
        """Let time pass."""
        maintained = bool(self._whole.maintenance)
        for name, state in self._endpoints.items():
            self._endpoints[name] = cooled(with_age(state, now), now)
            maintained = maintained or state.cause is Cause.MAINTENANCE
        for name, node in self._nodes.items():
            self._nodes[name] = _aged(node, now)
        if maintained:
            _maintain(self._inventory, self._whole, self._endpoints, now)

    def finished(self) -> ClusterSnapshot:
        """The snapshot, with findings, and with tiers and prognosis where any endpoint serves otherwise than before.

        It holds what the draft held: nothing may be taken into that any more.
        """
        found = findings(self._inventory, self._whole, self.readings)
        whole = replace(self._whole, findings=found, taken=self._taken)
        if _serving(self._before.endpoints) == _serving(self._endpoints):
            return whole
        tiers = _tiers(self._inventory, self._endpoints)
        return replace(whole, tiers=tiers, prognosis=prognosis(self._inventory, self._endpoints, tiers))


def _serving(endpoints: Mapping[str, EndpointState]) -> list[tuple[Verdict, Cause | None]]:
    return [(e.verdict, e.cause) for e in endpoints.values()]


def _tiers(inventory: Inventory, endpoints: Mapping[str, EndpointState]) -> tuple[TierState, ...]:
    return tuple(
        tier_state(tier.name, [endpoints[e.name] for e in inventory.endpoints_of[tier.name]])
        for tier in inventory.tiers
    )


def _judge(inventory: Inventory, draft: ClusterSnapshot, reading: EndpointReading) -> EndpointState:
    endpoint = inventory.endpoint_named[reading.endpoint]
    state = draft.endpoints[endpoint.name]
    if _maintained_until(draft, endpoint) > reading.at.wall:
        return replace(state, taken=reading.at, interval=reading.interval, latency=reading.result.latency)
    workload = workload_of(draft, endpoint)
    node = draft.nodes.get(endpoint.node or "")
    told = node is None or (node.workloads_trouble is None and node.reach_trouble is None)
    starting = (told and is_starting(workload, reading.at.wall)) or _under_procedure(draft, endpoint)
    off = is_off(endpoint.on_demand, workload)
    limits = Limits(inventory.stalled_after(endpoint), inventory.queue_limit(endpoint))
    after = next_state(state, reading, inventory.defaults, starting=starting, off=off, limits=limits)
    well = VERDICT_OF[reading.result.cause] is Verdict.UP is after.verdict
    if not well or (state.last_up is not None and _passing(draft, after, reading.at)):
        return after
    return replace(after, last_up=well_of(draft, after, endpoint, workload))


def _passing(draft: ClusterSnapshot, state: EndpointState, now: Instant) -> bool:
    """Whether it has worked for too short a time, or not as it was meant to, to count as how it works."""
    young = state.turned is not None and now.mono - state.turned.mono < LASTING
    return young or any(finding.endpoint == state.name for finding in draft.findings)


def workload_of(snapshot: ClusterSnapshot, endpoint: Endpoint) -> Workload | None:
    """The container or native service that `endpoint` runs in, as last read."""
    name = endpoint.container or (endpoint.service or "").partition(":")[2]
    node = snapshot.nodes.get(endpoint.node or "")
    return next((w for w in node.workloads if w.name == name), None) if node and name else None


def _under_procedure(draft: ClusterSnapshot, endpoint: Endpoint) -> bool:
    return any(
        procedure.open and procedure.node == endpoint.node and endpoint.container in procedure.targets
        for procedure in draft.procedures
    )


def _maintained_until(draft: ClusterSnapshot, endpoint: Endpoint) -> float:
    return max(draft.maintenance.get(endpoint.name, 0.0), draft.maintenance.get(endpoint.node or "", 0.0))


def _maintain(inventory: Inventory, draft: ClusterSnapshot, endpoints: dict[str, EndpointState], now: Instant) -> None:
    """Put endpoints under MAINTENANCE whose time has come, and let those go whose time is over."""
    for endpoint in inventory.lamps:
        state = endpoints[endpoint.name]
        until = _maintained_until(draft, endpoint)
        if until > now.wall and (state.cause is not Cause.MAINTENANCE or state.until != until):
            endpoints[endpoint.name] = replace(
                state, verdict=Verdict.UNKNOWN, cause=Cause.MAINTENANCE, evidence="a person said so", since=now, age=0,
                until=until, fails=0, successes=0, unread=None,
            )  # fmt: skip
        elif until <= now.wall and state.cause is Cause.MAINTENANCE:
            endpoints[endpoint.name] = EndpointState(
                endpoint.name, models=state.models, ever_up=state.ever_up, last_up=state.last_up
            )


def _with_gpus(node: Node, state: NodeState, reading: GpuReading) -> NodeState:
    if reading.trouble is not None:
        return replace(state, gpus_trouble=reading.trouble)
    seen = replace(state, gpus=reading.gpus, gpus_trouble=None, gpus_unread=None, gpus_taken=reading.at)
    return replace(seen, holds=held(node, seen, reading.at))


def _with_workloads(node: NodeState, reading: WorkloadReading) -> NodeState:
    if reading.trouble is not None:
        return replace(node, workloads_trouble=reading.trouble)
    told = replace(node, workloads=reading.workloads, devices=reading.devices)
    return replace(told, workloads_trouble=None, workloads_taken=reading.at)


def _with_facts(node: NodeState, facts: Facts) -> NodeState:
    """The node with its facts; a boot time that only wobbles with the clock stays as it was."""
    old = node.facts.booted_at if node.facts else None
    if old and facts.booted_at and abs(facts.booted_at - old) < CLOCK_WOBBLE:
        facts = replace(facts, booted_at=old)
    return node if facts == node.facts else replace(node, facts=facts)


def _aged(node: NodeState, now: Instant) -> NodeState:
    if node.gpus_taken is None:
        return node
    unread = now.mono - node.gpus_taken.mono
    overdue = rounded_age(unread) if unread >= 10 else None
    return node if overdue == node.gpus_unread else replace(node, gpus_unread=overdue)
