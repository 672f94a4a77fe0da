"""Deployments and their pods as workloads of nodes, and why a pod is pending, in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backends.cluster.reading import Device, Workload
from backends.cluster.words import KUBERNETES
from backends.reach.kubernetes.refusals import denied
from backends.reach.kubernetes.shapes import Claim, Controller, Host, Pod, fits
from backends.text import plain

MOST_HOLDERS: Final = 4
"""Holders of a resource that are named."""

_SCHEDULER: Final = re.compile(
    r"0/(\d+) nodes are available: (.*?)(?:\. (?:no new claims|preemption:|$)|\.?$)", re.DOTALL
)
_ON_ITS_WAY: Final = {
    "ContainerCreating": "its image is pulled, its volumes are mounted",
    "PodInitializing": "its init containers run",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A cluster as it was last seen; nodes and claims may be withheld from us."""

    controllers: Mapping[str, Controller] = field(default_factory=dict)
    pods: Sequence[Pod] = ()
    hosts: Mapping[str, Host] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)

    def of(self, owner: str) -> list[Pod]:
        """The pods of a workload that are not over."""
        return [p for p in self.pods if p.owner == owner and p.phase not in ("Succeeded", "Failed")]


def workloads(seen: Seen, node: str, named: Iterable[str]) -> tuple[Workload, ...]:
    """What runs on a node, waits for it, or may be started there: what asks for GPUs, and what is `named`."""
    names, here, found = set(named), seen.hosts.get(node), []
    for name, what in sorted(seen.controllers.items()):
        if not what.gpus and name not in names:
            continue
        pods = seen.of(name)
        placed = [p for p in pods if p.node == node]
        open_to = name in names if here is None else fits(what, here)
        if placed:
            found.append(workload(seen, what, placed))
        elif all(not p.node for p in pods) and (open_to or (not pods and name in names)):
            found.append(workload(seen, what, pods))
    return tuple(found)


def workload(seen: Seen, what: Controller, pods: Sequence[Pod]) -> Workload:
    """One workload, as its pods are: the one that is not ready tells."""
    plainly = Workload(
        name=what.name,
        runtime=KUBERNETES,
        state="exited",
        image=what.image,
        gpu=bool(what.gpus),
        ports=what.ports,
        launch=what.launch,
        arguments=what.arguments,
        mounts=what.mounts,
        surges=what.surges,
        update=_update(what),
        asks=tuple(sorted(what.gpus.items())),
    )
    if not what.replicas and all(pod.deleting for pod in pods):
        return replace(plainly, exit_code=0, error="it is being stopped" if pods else "no replicas")
    if not pods:
        refused = denied(what.failure)
        why = refused[0] if refused else what.failure or "its pod is not created yet"
        return replace(plainly, state="created", error=why)
    if 0 < what.replicas < what.wanted and all(pod.ready for pod in pods):
        return replace(plainly, state="created", error=f"{what.replicas} of {what.wanted} replicas")
    pod = min(pods, key=lambda p: (p.deleting, p.ready, -p.created))
    told = replace(
        plainly,
        id=pod.container_id,
        digest=pod.digest,
        started_at=pod.started_at,
        oom_killed=pod.oom_killed and not pod.running,
        exit_code=None if pod.running else pod.exit_code,
    )
    return _state(seen, what, pod, told)


def _update(what: Controller) -> str:
    """How far a rolling update with surge is that is not through; one that somebody else paused is left alone."""
    if not (what.surges and what.former and what.replicas) or (what.paused and not what.held):
        return ""
    return f"{what.former} of the former template still there{', paused' if what.paused else ''}"


def _state(seen: Seen, what: Controller, pod: Pod, told: Workload) -> Workload:
    reason, message = pod.waiting
    if pod.deleting:
        return replace(told, state="running", health="starting", error="it is being stopped")
    if not pod.node:
        return replace(told, state="created", error=pending(seen, what, pod))
    if pod.running:
        health = ("healthy" if pod.ready else "starting") if what.checked or not pod.ready else None
        return replace(told, state="running", health=health)
    if reason == "CrashLoopBackOff" or (not reason and pod.exit_code is not None):
        code = f", exit code {pod.exit_code}" if pod.exit_code is not None else ""
        return replace(told, state="restarting", error=f"ended {pod.restarts or 1} times{code}")
    if reason in _ON_ITS_WAY or not reason:
        return replace(told, state="starting", error=_ON_ITS_WAY.get(reason, "its node takes it in"))
    return replace(told, state="created", error=plain(f"{reason}: {message}" if message else reason, 200))


def pending(seen: Seen, what: Controller, pod: Pod) -> str:
    """Why a pod has no node, in words: "2 of 2 nodes: Insufficient nvidia.com/gpu; held by mistral-7b, coder"."""
    waiting = [f"{c.name} is {c.phase}" for c in _claims(seen, what) if c.phase not in ("Bound", "?")]
    found = _SCHEDULER.search(pod.unscheduled)
    if found is None:
        return "; ".join([plain(pod.unscheduled, 200) or "not scheduled yet", *waiting])
    reasons = []
    for part in found[2].split(", "):
        count, _, why = part.strip().partition(" ")
        why = why.removeprefix("node(s) ").rstrip(".")
        reasons.append(f"{count} of {found[1]} nodes: {why}" if count.isdecimal() else part.strip())
    lacking = re.findall(r"Insufficient (\S+?)[.,]?(?:\s|$)", found[2])
    holders = _holders(seen, what, lacking)
    held = [f"held by {', '.join(holders)}"] if holders else []
    return plain("; ".join([*reasons, *held, *waiting]), 300)


def _claims(seen: Seen, what: Controller) -> list[Claim]:
    names = [f"{what.namespace}/{mount.partition(':')[0]}" for mount in what.mounts]
    return [seen.claims[name] for name in names if name in seen.claims]


def _holders(seen: Seen, what: Controller, lacking: Sequence[str]) -> list[str]:
    """Who holds the GPUs that are lacking, on the nodes where it may run; who holds most first."""
    nodes = {h.name for h in seen.hosts.values() if fits(what, h)} or {p.node for p in seen.pods}
    held: dict[str, int] = {}
    for pod in seen.pods:
        if pod.holds and pod.node in nodes:
            count = sum(pod.gpus.get(name, 0) for name in lacking)
            short = (pod.owner or pod.name).rpartition("/")[2]
            held[short] = held.get(short, 0) + count
    names = sorted((n for n, count in held.items() if count), key=lambda n: (-held[n], n))
    more = [f"{len(names) - MOST_HOLDERS} more"] if len(names) > MOST_HOLDERS else []
    return [*names[:MOST_HOLDERS], *more]


def devices(seen: Seen, node: str) -> tuple[Device, ...]:
    """The GPUs of a node as the scheduler counts them, and who asked for how many."""
    here = seen.hosts.get(node)
    if here is None:
        return ()
    found = []
    for name, capacity in sorted(here.capacity.items()):
        held: dict[str, int] = {}
        for pod in seen.pods:
            if pod.holds and pod.node == node and pod.gpus.get(name):
                short = (pod.owner or pod.name).rpartition("/")[2]
                held[short] = held.get(short, 0) + pod.gpus[name]
        holders = tuple(f"{who} {count}" for who, count in sorted(held.items()))
        found.append(Device(name, capacity, here.allocatable.get(name, 0), sum(held.values()), holders))
    return tuple(found)
