"""The snapshot as data and as text for the command line: `tierdeck.status/1`, an interface that keeps its shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, Instant, Workload
from backends.cluster.snapshot import ClusterSnapshot, Loss, NodeState, Work
from backends.cluster.tables import Endpoint

SCHEMA: Final = "tierdeck.status/1"


def status_json(inventory: Inventory, snapshot: ClusterSnapshot) -> dict[str, Any]:
    """The whole snapshot; what is unknown is None, lists are in the inventory's order, times are ISO 8601 UTC."""
    prognosis = snapshot.prognosis
    tiers = {tier.name: tier for tier in snapshot.tiers}
    return {
        "schema": SCHEMA,
        "cluster": snapshot.name,
        "taken_at": iso(snapshot.taken),
        "prognosis": {
            "state": prognosis.state.value,
            "summary": prognosis.summary,
            "tasks": {task: {"now": o.now, "next": list(o.next)} for task, o in prognosis.tasks.items()},
            "without_busiest": _without(prognosis.without),
        },
        "tiers": [
            {
                "name": tier.name,
                "state": tiers[tier.name].state.value,
                "up": tiers[tier.name].up,
                "total": tiers[tier.name].total,
                "endpoints": [_endpoint(inventory, snapshot, e) for e in inventory.endpoints_of[tier.name]],
            }
            for tier in inventory.tiers
        ],
        "findings": [
            {"name": f.flaw.value, "endpoint": f.endpoint, "evidence": f.evidence, "cure": f.cure}
            for f in snapshot.findings
        ],
        "nodes": [_node(snapshot.nodes[node.name]) for node in inventory.nodes],
    }


def _without(loss: Loss | None) -> dict[str, Any] | None:
    return None if loss is None else {"node": loss.node, "lost": list(loss.lost), "tasks": dict(loss.tasks)}


def iso(instant: Instant | None) -> str | None:
    """A moment as ISO 8601 in UTC, to the millisecond."""
    if instant is None:
        return None
    return datetime.fromtimestamp(instant.wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _endpoint(inventory: Inventory, snapshot: ClusterSnapshot, endpoint: Endpoint) -> dict[str, Any]:
    state, check = snapshot.endpoints[endpoint.name], inventory.check_named.get(endpoint.name)
    return {
        "name": endpoint.name,
        "node": endpoint.node,
        "engine": None if check else endpoint.engine,
        "check": check.kind if check else None,
        "url": endpoint.url,
        "verdict": state.verdict.value,
        "cause": state.cause.value if state.cause else None,
        "evidence": state.evidence,
        "latency_ms": round(state.latency * 1000, 1) if state.latency is not None else None,
        "models": [model.name for model in state.models],
        "work": _work(state.work),
        "checked_at": iso(state.taken),
        "maintenance_until": iso(Instant(state.until, 0.0)) if state.until is not None else None,
    }


def _work(work: Work | None) -> dict[str, Any] | None:
    """What it works at; None where its engine tells nothing of it. Rates need two looks, and `status` takes one."""
    if work is None:
        return None
    return {
        "requests_running": work.running,
        "requests_waiting": work.waiting,
        "tokens_per_s": work.tokens_per_s,
        "kv_cache_pct": work.kv_pct,
        "first_token_ms": work.first_ms,
        "models": [
            {"name": m.name, "requests_per_minute": m.requests, "tokens_per_minute": m.tokens} for m in work.models
        ],
    }


def _node(node: NodeState) -> dict[str, Any]:
    return {
        "name": node.name,
        "gpus": [_gpu(gpu) for gpu in node.gpus],
        "devices": [asdict(device) for device in node.devices],
        "workloads": [_workload(workload) for workload in node.workloads],
        "error": error_of(node),
    }


def _workload(workload: Workload) -> dict[str, Any]:
    return {
        "name": workload.name,
        "runtime": workload.runtime,
        "state": workload.state,
        "health": workload.health,
        "error": workload.error or None,
        "image": workload.image,
        "scaling": workload.scaling or None,
        "volumes": [asdict(volume) for volume in workload.volumes],
        "findings": [asdict(scan) for scan in workload.scans],
        "notices": [
            {"at": iso(Instant(each.at, 0.0)), "reason": each.reason, "text": each.text, "bad": each.bad}
            for each in workload.notices
        ],
    }


def error_of(node: NodeState) -> str | None:
    """What keeps a node from being read, in a sentence, and what to do about it."""
    for trouble in (node.reach_trouble, node.gpus_trouble, node.workloads_trouble):
        if trouble is not None:
            return f"{trouble.message} {trouble.advice}".strip()
    return None


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "memory_total_mib": gpu.memory_total_mib,
        "memory_used_mib": gpu.memory_used_mib,
        "utilization_pct": gpu.utilization_pct,
        "temperature_c": gpu.temperature_c,
    }


def status_text(inventory: Inventory, snapshot: ClusterSnapshot) -> Iterator[str]:
    """The same in lines for people."""
    yield f"{snapshot.name}: {snapshot.prognosis.state.value}. {snapshot.prognosis.summary}"
    if (without := snapshot.prognosis.without) is not None:
        yield f"{without.words[0].upper()}{without.words[1:]}."
    width = max((len(e.name) for e in inventory.lamps), default=0)
    for tier in snapshot.tiers:
        yield f"{tier.name}  {tier.state.value}  {tier.up}/{tier.total}"
        for endpoint in inventory.endpoints_of[tier.name]:
            state = snapshot.endpoints[endpoint.name]
            cause = state.cause.value if state.cause else "-"
            latency = f"{state.latency * 1000:.0f} ms, " if state.latency is not None else ""
            yield f"  {endpoint.name:<{width}}  {state.verdict.value:<8}  {cause:<12}  {latency}{state.evidence}"
    for finding in snapshot.findings:
        yield f"{finding.endpoint}  {finding.flaw.value}  {finding.evidence}. {finding.cure}"
    yield from dict.fromkeys(
        f"{workload.name}  {scan.words}  ({scan.scanner})"
        for node in snapshot.nodes.values()
        for workload in node.workloads
        for scan in workload.scans
        if scan.grave
    )
    for node in snapshot.nodes.values():
        for gpu in node.gpus:
            used, total = gpu.memory_used_mib, gpu.memory_total_mib
            memory = f"{used:.0f} of {total:.0f} MiB" if used is not None and total is not None else "memory not told"
            yield f"{node.name}  GPU {gpu.index} {gpu.name}  {memory}"
        if (error := error_of(node)) is not None:
            yield f"{node.name}  {error}"
