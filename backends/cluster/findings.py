"""Findings: what answers, but without the GPU that it was meant to have. Pure rules over the snapshot.

A verdict tells whether an endpoint serves; a finding tells that it serves from the CPU, ten times slower, and the cure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from backends.cluster.engines import ENGINES
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Gpu, GpuReading, Instant, Reading, Workload, WorkloadReading
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, Finding, Hold, NodeState
from backends.cluster.tables import Endpoint, Node
from backends.cluster.words import Cause, Flaw

SETTLED: Final = 20.0
"""Seconds for which it must be so: longer than the pause between two questions for the processes on a GPU."""

CONTEXT_MIB: Final = 600.0
"""More than an empty CUDA context takes; real ones were measured at 107 to 555 MiB."""

RISE_MIB: Final = 64.0
"""Less than the smallest CUDA context: memory that rose by less was not taken by an engine."""


def findings(inventory: Inventory, snapshot: ClusterSnapshot, readings: Sequence[Reading]) -> tuple[Finding, ...]:
    """All findings after some readings, in the inventory's order; only what those are about is looked at anew."""
    asked: dict[str, None] = {}
    for reading in readings:
        if isinstance(reading, EndpointReading):
            asked[reading.endpoint] = None
        elif isinstance(reading, GpuReading | WorkloadReading):
            asked |= dict.fromkeys(inventory.gpu_users.get(reading.node, ()))
    was = {finding.endpoint: finding for finding in snapshot.findings}
    now = {name: _of(inventory, snapshot, name) for name in asked if name in snapshot.endpoints}
    if all(was.get(name) == found for name, found in now.items()):
        return snapshot.findings
    merged = {**was, **now}
    return tuple(found for endpoint in inventory.endpoints if (found := merged.get(endpoint.name)))


def _of(inventory: Inventory, snapshot: ClusterSnapshot, name: str) -> Finding | None:
    endpoint, state = inventory.endpoint_named[name], snapshot.endpoints[name]
    node = inventory.node_named.get(endpoint.node or "")
    if node is None or node.gpus == "none" or state.cause not in (Cause.OK, Cause.BUSY):
        return None
    if endpoint.engine == "ollama":
        return next(_ollama(endpoint, node, state), None)
    if ENGINES[endpoint.engine].resident and endpoint.container:
        return next(_container(endpoint, node, state, snapshot.nodes[node.name]), None)
    return None


def _ollama(endpoint: Endpoint, node: Node, state: EndpointState) -> Iterator[Finding]:
    lost = [model for model in state.models if model.loaded and model.vram_mib == 0]
    if not lost:
        return
    names = ", ".join(model.name for model in lost)
    restart = f"docker restart {endpoint.container}" if endpoint.container else "systemctl restart ollama"
    yield Finding(
        Flaw.ON_CPU,
        endpoint.name,
        f"{names}: loaded with nothing of it on the GPU of {node.name}",
        f"Restart Ollama on {node.name} ({restart}); a suspend makes it lose its GPU; its log says why.",
    )


def _container(endpoint: Endpoint, node: Node, state: EndpointState, seen: NodeState) -> Iterator[Finding]:
    name = endpoint.container or ""
    workload = next((w for w in seen.workloads if w.name == name), None)
    hold, now = seen.holds.get(name), seen.gpus_taken
    if workload is None or not (workload.running and workload.gpu) or hold is None or now is None or seen.gpus_trouble:
        return
    if hold.started != workload.started_at or (state.turned and now.mono - state.turned.mono < SETTLED):
        return
    if hold.missing is not None and now.mono - hold.missing.mono >= SETTLED:
        if hold.ever:
            yield Finding(
                Flaw.GPU_LOST,
                endpoint.name,
                f"{name} runs since its start, but none of its processes is on a GPU of {node.name} any more",
                f"docker restart {name} on {node.name}; a systemctl daemon-reload takes GPUs from running containers.",
            )
        else:
            yield _on_cpu(endpoint, f"none of its processes is on a GPU of {node.name}", node)
        return
    size = sum(model.size_mib or 0.0 for model in state.models if model.loaded is not False)
    if hold.mib is not None and hold.mib < min(CONTEXT_MIB, size / 4):
        yield _on_cpu(endpoint, f"holds {hold.mib:.0f} MiB on the GPU, its model is {size / 1024:.1f} GiB", node)
    elif hold.mib is None and hold.missing is None and hold.risen_mib is not None and hold.risen_mib < RISE_MIB:
        yield _on_cpu(endpoint, f"GPU memory of {node.name} did not rise while it started and loaded", node)


def _on_cpu(endpoint: Endpoint, evidence: str, node: Node) -> Finding:
    cure = (
        f"docker logs {endpoint.container} on {node.name} names the devices it found; start it with --gpus all, "
        "an image built for that GPU, and layers on it (-ngl)."
    )
    return Finding(Flaw.ON_CPU, endpoint.name, f"{endpoint.container}: {evidence}", cure)


def held(node: Node, state: NodeState, at: Instant) -> Mapping[str, Hold]:
    """What the GPUs just read tell of each GPU container of a node, on top of what was known of it."""
    used = _used(state.gpus)
    first = not state.holds
    return {
        w.name: _hold(state.holds.get(w.name), w, state.gpus, used, at, first=first, linux=node.os == "linux")
        for w in state.workloads
        if w.gpu
    }


def _used(gpus: Sequence[Gpu]) -> float | None:
    told = [gpu.memory_used_mib for gpu in gpus if gpu.memory_used_mib is not None]
    return sum(told) if told and len(told) == len(gpus) else None


def _hold(
    old: Hold | None,
    workload: Workload,
    gpus: Sequence[Gpu],
    used: float | None,
    at: Instant,
    *,
    first: bool,
    linux: bool,
) -> Hold:
    if not workload.running:
        return Hold(None, low_mib=used, risen_mib=0.0)
    if old is None or old.started != workload.started_at:
        watched = old is not None and old.started is None and old.low_mib is not None
        old = Hold(
            workload.started_at, low_mib=old.low_mib if old and watched else None, risen_mib=0.0 if watched else None
        )
    if old.low_mib is not None and old.risen_mib is not None and used is not None:
        low = min(old.low_mib, used)
        old = replace(old, low_mib=low, risen_mib=max(old.risen_mib, used - low))
    there = _there(workload, gpus) if linux else None
    if there is None:
        return replace(old, mib=None, missing=None)
    if there:
        told = [mib for mib in there if mib is not None]
        return replace(old, ever=True, mib=sum(told) if len(told) == len(there) else None, missing=None)
    since = old.missing or (Instant(at.wall - SETTLED, at.mono - SETTLED) if first else at)
    return replace(old, mib=None, missing=since)


def _there(workload: Workload, gpus: Sequence[Gpu]) -> list[float | None] | None:
    """What each process of the container holds; None where not every process on the GPUs is known by its container."""
    found: list[float | None] = []
    for gpu in gpus:
        for process in gpu.processes if gpu.processes is not None else (None,):
            if process is None or process.container is None:
                return None
            if process.container and workload.id and workload.id.startswith(process.container[:12]):
                found.append(process.used_mib)
    return found
