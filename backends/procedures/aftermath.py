"""What comes after the rungs: everything that is to run on a node is started in order, and health is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from backends.cluster.reading import ProbeResult, Workload
from backends.cluster.words import SERVING, Cause
from backends.errors import ProcedureError
from backends.procedures.container import StartContainer
from backends.procedures.context import Context, title
from backends.procedures.plan import Step
from backends.procedures.runner import Report, StepKind
from backends.procedures.startup import all_of, start_step
from backends.procedures.turn import naming

HEALTHY_WITHIN: Final = 60.0
"""Seconds until every endpoint has to be well; what starts was waited for already."""


class StartQueue:
    """Starts what is to run on the node, one after the other; what runs there is known only now."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context = context
        self._node = context.inventory.node_named[str(step.arguments["node"])]

    async def check(self) -> str:
        """Its containers each ask for themselves."""
        return ""

    async def apply(self, report: Report) -> None:
        """Every container through its gate, in order; what is ready is left alone."""
        with self._context.outages.watched():
            known = {title(w): w for w in await self._context.workloads(self._node.name)}
        names = all_of(self._context.inventory, self._node, known)
        context = replace(self._context, targets=tuple(names))
        for index, name in enumerate(names):
            await self._start(known[name], context, report, last=index == len(names) - 1)

    async def _start(self, workload: Workload, context: Context, report: Report, *, last: bool) -> None:
        step = start_step(self._node, workload, last=last)
        kind = StartContainer(step, context)
        told = naming(workload.name, report)
        if said := await kind.check():
            told({"text": said})
            return
        await kind.apply(told)
        told({"text": await kind.verify(told)})

    async def verify(self, report: Report) -> str:
        """Each was waited for at its gate."""
        return "everything that is to run there was started, or was ready"

    async def undo(self) -> None:
        """What was started is left alone."""


class Healthy:
    """Asks every endpoint of a node again."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context, self._clock = context, context.clock
        node = str(step.arguments["node"])
        only = step.arguments.get("endpoints")
        names = only if isinstance(only, list) else None
        self._node = node
        self._endpoints = [
            e for e in context.inventory.endpoints if e.node == node and (e.name in names if names else not e.on_demand)
        ]

    async def check(self) -> str:
        """It is always asked."""
        return "" if self._endpoints else "no endpoint of it is to be asked"

    async def apply(self, report: Report) -> None:
        """Asking changes nothing."""

    async def verify(self, report: Report) -> str:
        """All serve; ProcedureError naming those that do not within a minute."""
        begun = self._clock.now().mono
        while True:
            results = await asyncio.gather(*(self._context.probe(e.name) for e in self._endpoints))
            ill = [(e.name, r) for e, r in zip(self._endpoints, results, strict=True) if r.cause not in SERVING]
            if not ill:
                return f"{len(results)} of {len(results)} endpoints of {self._node} serve"
            waited = self._clock.now().mono - begun
            if waited >= HEALTHY_WITHIN:
                raise ProcedureError(_words(ill), f"See: tierdeck diagnose {self._node}")
            report({"text": f"{len(results) - len(ill)} of {len(results)} serve", "gate": "health", "waited_s": waited})
            await self._clock.sleep(1.0)

    async def undo(self) -> None:
        """Nothing was changed."""


def _words(ill: list[tuple[str, ProbeResult]]) -> str:
    name, result = ill[0]
    cause = result.cause.value if isinstance(result.cause, Cause) else str(result.cause)
    more = f" (and {len(ill) - 1} more)" if len(ill) > 1 else ""
    return f"{name} does not serve yet: {cause} {result.evidence}{more}."


AFTER_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "start_queue": StartQueue,
    "healthy": Healthy,
}
