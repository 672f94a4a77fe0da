"""The step that scales the workloads of a Kubernetes node down before it comes back, so that they do not crowd it.

A kubelet starts all pods of its node at once; those that are to end by then are not started, and the queue lets all in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Node
from backends.cluster.words import KUBERNETES
from backends.procedures.context import Context, residence
from backends.procedures.draining import placing
from backends.procedures.plan import Danger, Step
from backends.procedures.runner import Report, StepKind
from backends.procedures.startup import all_of

LIMIT: Final = 120.0
"""Seconds for the API to take it; nobody waits for the pods, whose node may be away."""


def stand_down_step(node: Node, danger: Danger, *, may_fail: bool = False) -> Step:
    """The step for a node of a cluster; it may fail where the API goes away with the node."""
    label = f"scale the workloads of {node.name} down, to let them in one by one"
    shown = "kubectl scale --replicas=0, each with the number that it had remembered on itself"
    return Step("stand_down", label, {"node": node.name}, LIMIT, danger, shown, may_fail=may_fail)


def returning(inventory: Inventory, node: Node) -> list[str]:
    """What the start queue starts again afterwards: only that is scaled down."""
    return all_of(inventory, node, {*node.queue.order, *(residence(e) for e in inventory.endpoints)})


class StandDown:
    """Lowers the replicas of what the start queue starts again."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context = context
        self._node = context.inventory.node_named[str(step.arguments["node"])]
        self._lowered: tuple[str, ...] = ()

    async def check(self) -> str:
        """It does nothing where nothing runs."""
        return ""

    async def apply(self, report: Report) -> None:
        """Tell the API."""
        runtime = placing(await self._context.runtime(self._node.name, KUBERNETES))
        await self._context.confirm()
        self._lowered = await runtime.lower(returning(self._context.inventory, self._node))

    async def verify(self, report: Report) -> str:
        """The API took it."""
        return f"scaled down: {', '.join(self._lowered) or 'nothing'}"

    async def undo(self) -> None:
        """The start queue raises them again; each remembers how many it had."""


STAND_DOWN_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {"stand_down": StandDown}
