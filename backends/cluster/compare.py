"""What changed since it last worked: the facts about an endpoint at two moments, side by side. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass

from backends.cluster.reading import Facts, Gpu, Workload
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, Well
from backends.cluster.tables import Endpoint


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is not as it was; "" where there was or is none."""

    what: str
    was: str
    now: str


def differences(was: Well, now: Well) -> list[Difference]:
    """What is not as it was, in the order of its likely blame; what is not known now is not held against it."""
    before, after = facts(was), facts(now)
    names = dict.fromkeys((*before, *after))
    return [
        Difference(what, before.get(what, ""), after.get(what, ""))
        for what in names
        if before.get(what, "") != after.get(what, "") and not (what in MACHINE and (what not in after))
    ]


def well_of(snapshot: ClusterSnapshot, state: EndpointState, endpoint: Endpoint, workload: Workload | None) -> Well:
    """What can explain that an endpoint works or does not: its state, and what a snapshot holds of its node."""
    node = snapshot.nodes.get(endpoint.node or "")
    names = tuple(model.name for model in state.models)
    if node is None:
        return Well(state.taken, workload, state.version, names)
    troubles = (node.reach_trouble, node.gpus_trouble, node.workloads_trouble)
    said = tuple(trouble.message if trouble else "" for trouble in troubles)
    return Well(state.taken, workload, state.version, names, node.gpus, node.facts, said)


MACHINE = ("booted", "kernel", "GPU driver", "Docker")
"""Facts of a machine, which are known late."""


def facts(well: Well) -> dict[str, str]:
    """What can explain it, each in words; what is not known is left out."""
    told = _container(well.workload) if well.workload is not None else {}
    told["engine version"] = well.version or ""
    told["models"] = ", ".join(sorted(well.models))
    told |= machine(well.facts)
    told["GPUs of the node"] = ", ".join(_gpu(gpu) for gpu in well.gpus)
    for what, trouble in zip(("the node", "GPUs", "containers"), well.troubles, strict=False):
        told[what] = trouble or "read"
    return {what: words for what, words in told.items() if words}


def machine(facts: Facts | None) -> dict[str, str]:
    """The facts of a machine in words; "" for what is not known."""
    if facts is None:
        return {}
    booted = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.booted_at)) if facts.booted_at else ""
    values = (booted, facts.kernel or "", facts.driver or "", facts.docker or "")
    return dict(zip(MACHINE, values, strict=True))


def _container(workload: Workload) -> dict[str, str]:
    ended = f" with code {workload.exit_code}" if workload.exit_code is not None else ""
    return {
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


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.index} {gpu.name} {gpu.memory_total_mib or 0:.0f} MiB"
