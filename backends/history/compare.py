"""What changed since it last worked: the facts about an endpoint at two moments, side by side. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is not as it was; "" where there was or is none."""

    what: str
    was: str
    now: str


def differences(inventory: Inventory, then: ClusterSnapshot, now: ClusterSnapshot, name: str) -> list[Difference]:
    """What is not as it was about the endpoint `name`, its container and its node, in the order of its likely blame."""
    before, after = facts(inventory, then, name), facts(inventory, now, name)
    names = dict.fromkeys((*before, *after))
    return [
        Difference(what, before.get(what, ""), after.get(what, ""))
        for what in names
        if before.get(what, "") != after.get(what, "")
    ]


def facts(inventory: Inventory, snapshot: ClusterSnapshot, name: str) -> dict[str, str]:
    """What can explain that an endpoint works or does not, each in words; what is not known is left out."""
    endpoint, state = inventory.endpoint_named[name], snapshot.endpoints[name]
    told: dict[str, str] = {}
    workload = workload_of(snapshot, endpoint)
    if workload is not None:
        ended = f" with code {workload.exit_code}" if workload.exit_code is not None else ""
        told |= {
            "container": workload.state + ended + (", out of memory" if workload.oom_killed else ""),
            "image": workload.image,
            "image digest": workload.digest.removeprefix("sha256:")[:12],
            "arguments": " ".join(workload.arguments),
            "mounts": ", ".join(workload.mounts),
            "ports": ", ".join(str(port) for port in workload.ports),
            "GPU asked for": "yes" if workload.gpu else "no",
            "restart policy": workload.restart_policy,
            "container id": workload.id[:12],
        }
    told["engine version"] = state.version or ""
    told["models"] = ", ".join(sorted(model.name for model in state.models))
    node = snapshot.nodes.get(endpoint.node or "")
    if node is not None:
        told["GPUs of the node"] = ", ".join(f"{g.index} {g.name} {g.memory_total_mib or 0:.0f} MiB" for g in node.gpus)
        troubles = {"the node": node.reach_trouble, "GPUs": node.gpus_trouble, "containers": node.workloads_trouble}
        told |= {what: trouble.message if trouble else "read" for what, trouble in troubles.items()}
    return {what: words for what, words in told.items() if words}
