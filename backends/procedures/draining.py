"""Cordon, drain and uncordon of a Kubernetes node: only what a person asks for, and never unattended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import KUBERNETES
from backends.errors import ProcedureError, RuntimeFailure
from backends.procedures.context import Context
from backends.procedures.plan import BlastRadius, Danger, Plan, Step
from backends.procedures.runner import Report, StepKind
from backends.procedures.startup import blast
from backends.reach.runtime import Runtime

DRAIN_LIMIT: Final = 900.0
"""Seconds for all pods to be gone: each has its grace, and disruption budgets make some wait for others."""

_LOOK: Final = 1.0
_NAMED: Final = 5


@runtime_checkable
class Placing(Protocol):
    """A runtime whose scheduler places work on nodes."""

    async def cordon(self, *, on: bool) -> None:
        """Have nothing new placed on the node, or allow it again."""
        ...

    async def lower(self, names: Sequence[str]) -> tuple[str, ...]:
        """Scale down those of these workloads that run on the node alone, without waiting; which they were."""
        ...

    async def evictable(self) -> tuple[str, ...]:
        """The pods that a drain moves away, as NAMESPACE/NAME."""
        ...

    async def evict(self, pod: str) -> bool:
        """Ask for a pod to be moved away; False where that is not allowed yet."""
        ...


Asked = Callable[[str, str], Awaitable[Runtime]]


async def prepare_placing(inventory: Inventory, snapshot: ClusterSnapshot, node: str, what: str, asked: Asked) -> Plan:
    """What would cordon, drain or uncordon a node, and what stops by that; ProcedureError where it is of no cluster."""
    table = inventory.node_named[node]
    if table.kubernetes is None:
        raise ProcedureError(f"{node} belongs to no Kubernetes cluster.", 'Say kubernetes = "..." in its [[nodes]].')
    named = table.kubernetes.node or node
    if what != "drain":
        step = _cordon(node, named, on=what == "cordon")
        return Plan(kind=what, node=node, title=f"{what.capitalize()} {node}", steps=(step,))
    pods = await placing(await asked(node, KUBERNETES)).evictable()
    evict = Step(
        "evict",
        f"move {len(pods)} pods away from {node}",
        {"node": node},
        DRAIN_LIMIT + 60,
        Danger.INTERRUPTS,
        f"kubectl drain {named} --ignore-daemonsets --delete-emptydir-data",
    )
    return Plan(
        kind="drain",
        node=node,
        title=f"Drain {node}: {len(pods)} pods",
        steps=(_cordon(node, named, on=True), evict),
        blast=_blast(inventory, snapshot, node, pods),
        warnings=(
            "What finds no other node stays down until this one is uncordoned.",
            f"Afterwards: tierdeck recover {node} --from uncordon",
        ),
    )


def placing(runtime: Runtime) -> Placing:
    """The runtime, if it has a scheduler; RuntimeFailure where it has none."""
    if isinstance(runtime, Placing):
        return runtime
    raise RuntimeFailure(f"{runtime.kind} places nothing on nodes.")


def _cordon(node: str, named: str, *, on: bool) -> Step:
    verb = "cordon" if on else "uncordon"
    told: dict[str, str | bool] = {"node": node, "on": on}
    return Step("cordon", f"{verb} {node}", dict(told), 60.0, Danger.CHANGES, f"kubectl {verb} {named}")


def _blast(inventory: Inventory, snapshot: ClusterSnapshot, node: str, pods: Sequence[str]) -> BlastRadius:
    """The endpoints of the workloads that run there, and all other pods as bystanders."""
    running = [w.name for w in snapshot.nodes[node].workloads if w.runtime == KUBERNETES and w.running]
    own = tuple(f"{name.replace('/statefulset/', '/')}-" for name in running)
    others = tuple(pod for pod in pods if not pod.startswith(own)) if own else tuple(pods)
    return replace(blast(inventory, snapshot, node, running), bystanders=others)


class _OnNode:
    """What the steps share: their node, and its runtime."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context = context
        self._node = str(step.arguments["node"])
        self._on = step.arguments.get("on") is True

    async def _placing(self) -> Placing:
        return placing(await self._context.runtime(self._node, KUBERNETES))

    async def check(self) -> str:
        """It is always done: it does nothing where nothing is to be done."""
        return ""


class Cordon(_OnNode):
    """Cordons a node, or takes that back."""

    async def apply(self, report: Report) -> None:
        """Tell the API."""
        await self._context.confirm()
        await (await self._placing()).cordon(on=self._on)

    async def verify(self, report: Report) -> str:
        """The API took it."""
        return "nothing new is placed there" if self._on else "pods are placed there again"

    async def undo(self) -> None:
        """Take it back."""
        await (await self._placing()).cordon(on=not self._on)


class Evict(_OnNode):
    """Moves the pods of a node away, by evictions that keep to disruption budgets, and waits until they are gone."""

    async def apply(self, report: Report) -> None:
        """Ask for each until none is left."""
        clock, runtime = self._context.clock, await self._placing()
        begun, asked = clock.now().mono, set[str]()
        await self._context.confirm()
        while pods := await runtime.evictable():
            asked = {pod for pod in asked if pod in pods}
            for pod in pods:
                if pod not in asked and await runtime.evict(pod):
                    asked.add(pod)
            waited = clock.now().mono - begun
            held = [pod for pod in pods if pod not in asked]
            if waited >= DRAIN_LIMIT:
                raise ProcedureError(
                    f"After {waited:.0f} s there are still on {self._node}: {_some(pods)}."
                    + (f" A disruption budget keeps {_some(held)}." if held else ""),
                    "It stays cordoned; what was moved stays moved.",
                )
            words = f"{len(pods)} pods are still there: {_some(pods)}"
            report({"text": words + (f"; a disruption budget keeps {_some(held)}" if held else "")})
            await clock.sleep(_LOOK)

    async def verify(self, report: Report) -> str:
        """None is left."""
        return "all pods that may be moved are gone"

    async def undo(self) -> None:
        """What was moved stays moved."""


def _some(pods: Sequence[str]) -> str:
    more = f" and {len(pods) - _NAMED} more" if len(pods) > _NAMED else ""
    return ", ".join(pods[:_NAMED]) + more


DRAIN_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {"cordon": Cordon, "evict": Evict}
"""The kinds of steps of these plans, for the registry."""
