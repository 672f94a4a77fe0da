"""A GPU's memory in four columns and a rest: measured, declared, predicted, reserved, unattributed. All in MiB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, Workload
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, NodeState
from backends.cluster.tables import Endpoint, Node
from backends.cluster.words import Cause


@dataclass(frozen=True, slots=True)
class Entry:
    """One endpoint's share of a GPU; None is "not known", `reserved` is what its start will still take.

    `certainty` tells where the prediction comes from: header, bound, or observed (its engine said it at a start).
    """

    endpoint: str
    measured: float | None
    declared: float | None
    predicted: float | None
    reserved: float = 0.0
    certainty: str = ""

    @property
    def held(self) -> float:
        """What it has now: as measured, else as declared, else as predicted but for what is still to come."""
        if self.measured is not None:
            return self.measured
        return self.declared if self.declared is not None else (self.predicted or 0.0) - self.reserved


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole of a GPU; `measured` is what its driver says is in use."""

    measured: float
    entries: tuple[Entry, ...]

    @property
    def attributed(self) -> float:
        """What the entries hold, never more than is in use."""
        return min(self.measured, sum(entry.held for entry in self.entries))

    @property
    def reserved(self) -> float:
        """What starts in progress will still take."""
        return sum(entry.reserved for entry in self.entries)

    @property
    def unattributed(self) -> float:
        """What is in use, and by no model."""
        return self.measured - self.attributed


def ledger(inventory: Inventory, snapshot: ClusterSnapshot, node: Node, gpu: Gpu) -> Ledger | None:
    """One GPU's ledger; None where its driver does not say what is in use.

    On a node of several GPUs an endpoint counts where a process of its container is.
    """
    if gpu.memory_used_mib is None:
        return None
    state = snapshot.nodes[node.name]
    held = held_by_container(gpu, state.workloads)
    ready: list[Entry] = []
    starting: list[tuple[Endpoint, float, str]] = []
    for endpoint in inventory.endpoints_on[node.name]:
        if len(state.gpus) > 1 and endpoint.container not in held:
            continue
        predicted, certainty = _predicted(snapshot, endpoint)
        now = snapshot.endpoints[endpoint.name]
        if now.serving:
            ready.append(
                Entry(endpoint.name, held.get(endpoint.container or ""), _declared(now), predicted, 0.0, certainty)
            )
        elif predicted is not None and _starts(snapshot, endpoint, now):
            starting.append((endpoint, predicted, certainty))
    left = max(0.0, gpu.memory_used_mib - sum(entry.held for entry in ready))
    entries = list(ready)
    for endpoint, predicted, certainty in starting:
        own = held.get(endpoint.container or "")
        got = min(left, predicted, _grown(state, endpoint)) if own is None else own
        left = max(0.0, left - got)
        entries.append(Entry(endpoint.name, own, None, predicted, max(0.0, predicted - got), certainty))
    return Ledger(gpu.memory_used_mib, tuple(entries))


def _grown(state: NodeState, endpoint: Endpoint) -> float:
    """MiB by which the node's GPUs hold more than when this one started; without end where that was not seen."""
    hold = state.holds.get(endpoint.container or "")
    used = sum(gpu.memory_used_mib or 0.0 for gpu in state.gpus)
    return math.inf if hold is None or hold.low_mib is None else max(0.0, used - hold.low_mib)


def held_by_container(gpu: Gpu, workloads: Sequence[Workload]) -> dict[str, float]:
    """MiB on this GPU by container name, from its processes' cgroups."""
    held: dict[str, float] = {}
    for process in gpu.processes or ():
        name = next((w.name for w in workloads if process.container and w.id.startswith(process.container[:12])), None)
        if name is not None and process.used_mib is not None:
            held[name] = held.get(name, 0.0) + process.used_mib
    return held


def _declared(state: EndpointState) -> float | None:
    said = [model.vram_mib for model in state.models if model.vram_mib is not None and model.loaded is not False]
    return sum(said) if said else None


def _predicted(snapshot: ClusterSnapshot, endpoint: Endpoint) -> tuple[float | None, str]:
    said = [each for each in snapshot.predicted if each.endpoint == endpoint.name]
    return (sum(each.mib for each in said), said[0].certainty) if said else (None, "")


def _starts(snapshot: ClusterSnapshot, endpoint: Endpoint, state: EndpointState) -> bool:
    workload = workload_of(snapshot, endpoint)
    return state.cause is Cause.LOADING or (workload is not None and workload.running)
