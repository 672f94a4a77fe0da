"""The steps that let a rolling update in pod by pod: paused until its turn, its former pods ended, then started.

Left to itself, an update with surge starts a second pod beside the first, past the start queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from backends.cluster.reading import Workload
from backends.errors import RuntimeFailure
from backends.procedures.context import Context
from backends.procedures.plan import Danger, Step
from backends.procedures.runner import Report, StepKind
from backends.procedures.trouble import call
from backends.reach.runtime import Runtime

STOP_LIMIT: Final = 240.0
"""Seconds for the former pods to end: each has its own grace."""


@runtime_checkable
class Rolling(Protocol):
    """A runtime that replaces what runs by itself, when its description changes."""

    async def hold_update(self, name: str) -> None:
        """Have it go no further, until the workload is started anew."""
        ...


def hold_step(node: str, workload: Workload) -> Step:
    """The step that pauses an update until its turn comes."""
    label = f"pause the rolling update of {workload.name} ({workload.update})"
    command = call(workload.runtime, "pause", workload.name)
    return Step("hold_update", label, _told(node, workload), 60.0, Danger.CHANGES, command)


def turn_over_step(node: str, workload: Workload) -> Step:
    """The step that ends what still runs of the former template; the next start is of the new one."""
    label = f"end the former pods of {workload.name}"
    command = call(workload.runtime, "stop", workload.name)
    return Step("turn_over", label, _told(node, workload), STOP_LIMIT, Danger.INTERRUPTS, command)


def _told(node: str, workload: Workload) -> dict[str, str]:
    return {"node": node, "name": workload.name, "runtime": workload.runtime}


class HoldUpdate:
    """Pauses a rolling update."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context = context
        self._node, self._name, self._runtime = (str(step.arguments[key]) for key in ("node", "name", "runtime"))

    async def check(self) -> str:
        """It may be through since the plan."""
        return "" if (await (await self._opened()).state(self._name)).update else "its update is through"

    async def apply(self, report: Report) -> None:
        """Tell the runtime; nothing happens where it is paused already."""
        runtime = await self._opened()
        if not isinstance(runtime, Rolling):
            raise RuntimeFailure(f"{runtime.kind} updates nothing by itself.")
        await self._context.confirm()
        await runtime.hold_update(self._name)

    async def verify(self, report: Report) -> str:
        """The runtime took it."""
        return "nothing more of it starts by itself"

    async def undo(self) -> None:
        """It goes on with its start; until then it is shown as paused."""

    async def _opened(self) -> Runtime:
        return await self._context.runtime(self._node, self._runtime)


class TurnOver(HoldUpdate):
    """Ends what still runs of the former template."""

    async def apply(self, report: Report) -> None:
        """Stop all of it: a pod of the new one may be there already, and be in the way."""
        await self._context.confirm()
        await (await self._opened()).stop(self._name)

    async def verify(self, report: Report) -> str:
        """It was waited for."""
        return "nothing of the former template runs"


UPDATE_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "hold_update": HoldUpdate,
    "turn_over": TurnOver,
}
