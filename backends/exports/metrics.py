"""The snapshot as Prometheus text (exposition format 0.0.4): up, verdict, latency, VRAM, tokens/s, queue depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import State, Verdict

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

MIB: Final = 1 << 20

Labels = tuple[tuple[str, str], ...]
Sample = tuple[Labels, float]


def prometheus_text(inventory: Inventory, snapshot: ClusterSnapshot) -> str:
    """All of it; what is not known is left out, never told as 0."""
    rows: list[str] = []
    for name, text, samples in (*_cluster(snapshot), *_endpoints(inventory, snapshot), *_gpus(snapshot)):
        if found := list(samples):
            rows += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
            rows += [f"{name}{_labels(labels)} {value:.15g}" for labels, value in found]
    return "\n".join(rows) + "\n"


def _cluster(snapshot: ClusterSnapshot) -> Iterator[tuple[str, str, Iterable[Sample]]]:
    cluster = ("cluster", snapshot.name)
    now = snapshot.prognosis.state
    yield (
        "tierdeck_cluster_state", "1 for the state of the whole.",
        [((cluster, ("state", state.value)), float(now is state)) for state in State],
    )  # fmt: skip
    yield (
        "tierdeck_tier_state", "1 for the state of a tier.",
        [
            ((("tier", tier.name), ("state", state.value)), float(tier.state is state))
            for tier in snapshot.tiers
            for state in State
        ],
    )  # fmt: skip
    served = snapshot.prognosis.tasks.items()
    yield (
        "tierdeck_task_served", "Whether anybody serves a task now.",
        [((("task", task),), float(outlook.now is not None)) for task, outlook in served],
    )  # fmt: skip
    if snapshot.taken is not None:
        yield "tierdeck_taken_seconds", "When this was true, in Unix seconds.", [((cluster,), snapshot.taken.wall)]


def _endpoints(inventory: Inventory, snapshot: ClusterSnapshot) -> Iterator[tuple[str, str, Iterable[Sample]]]:
    labels: dict[str, Labels] = {
        e.name: (("endpoint", e.name), ("tier", e.tier), ("node", e.node or ""), ("engine", inventory.kind_of(e)))
        for e in inventory.lamps
    }
    states = [(labels[name], state) for name, state in snapshot.endpoints.items() if name in labels]
    read = [(own, state) for own, state in states if state.cause is not None]
    yield (
        "tierdeck_endpoint_up", "Whether an endpoint serves.",
        [(own, float(state.serving)) for own, state in read],
    )  # fmt: skip
    yield (
        "tierdeck_endpoint_verdict", "1 for the verdict on an endpoint.",
        [((*own, ("verdict", v.value)), float(s.verdict is v)) for own, s in states for v in Verdict],
    )  # fmt: skip
    yield (
        "tierdeck_endpoint_cause", "1 for the cause of the verdict.",
        [((*own, ("cause", state.cause.value)), 1.0) for own, state in read if state.cause is not None],
    )  # fmt: skip
    yield (
        "tierdeck_endpoint_latency_seconds", "How long the health call took.",
        [(own, state.latency) for own, state in read if state.latency is not None],
    )  # fmt: skip
    works = [(own, state.work) for own, state in read if state.work is not None]
    for name, text, part in (
        ("tokens_per_second", "Tokens that are generated in a second.", "tokens_per_s"),
        ("requests_running", "Requests that are worked at.", "running"),
        ("requests_waiting", "Requests that wait: the depth of the queue.", "waiting"),
    ):
        found = [(own, getattr(work, part)) for own, work in works]
        yield f"tierdeck_endpoint_{name}", text, [(own, float(v)) for own, v in found if v is not None]
    yield (
        "tierdeck_endpoint_kv_cache_ratio", "Share of the KV cache in use.",
        [(own, work.kv_pct / 100) for own, work in works if work.kv_pct is not None],
    )  # fmt: skip


def _gpus(snapshot: ClusterSnapshot) -> Iterator[tuple[str, str, Iterable[Sample]]]:
    gpus = [
        ((("node", node.name), ("gpu", str(gpu.index)), ("name", gpu.name)), gpu)
        for node in snapshot.nodes.values()
        if node.gpus_trouble is None and node.gpus_unread is None
        for gpu in node.gpus
    ]
    for name, text, part, unit in (
        ("memory_used_bytes", "GPU memory in use.", "memory_used_mib", MIB),
        ("memory_total_bytes", "GPU memory.", "memory_total_mib", MIB),
        ("utilization_ratio", "Share of time in which a GPU worked.", "utilization_pct", 0.01),
        ("temperature_celsius", "Heat of a GPU.", "temperature_c", 1),
        ("power_watts", "Power that a GPU draws.", "power_w", 1),
    ):
        found = [(own, getattr(gpu, part)) for own, gpu in gpus]
        yield f"tierdeck_gpu_{name}", text, [(own, value * unit) for own, value in found if value is not None]
    yield (
        "tierdeck_node_reached", "Whether a node can be touched.",
        [((("node", n.name),), float(n.reach_trouble is None)) for n in snapshot.nodes.values() if _touched(n)],
    )  # fmt: skip


def _touched(node: object) -> bool:
    return getattr(node, "reach_taken", None) is not None


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
