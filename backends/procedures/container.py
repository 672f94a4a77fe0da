"""The step that starts one container or native service, through the gate of its host.

running -> engine ready -> GPU memory steady -> a gap; never beside a GPU container that is not ready yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from backends.cluster.reading import Workload
from backends.errors import ProcedureError, ReachError, RuntimeFailure
from backends.procedures import gate, trouble
from backends.procedures.context import Context, title
from backends.procedures.plan import Step
from backends.procedures.runner import Report
from backends.reach.runtime import Runtime

CONFIG_PATIENCE: Final = 5.0
"""Seconds for which an engine may answer with a fault that no retry cures, before it counts."""

SAY_EVERY: Final = 1.0
"""Seconds between two reports of the same wait."""

_MOST_RESTARTS: Final = 2
_MOST_STARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Start:
    """What the step is told: `patience` is the seconds without progress, `gap` the pause behind it.

    With `restart` it is first stopped if it still runs since `since` (Unix seconds, by its node's clock).
    """

    node: str
    name: str
    runtime: str = "docker"
    gpu: bool = True
    gap: float = 0.0
    patience: float = 180.0
    restart: bool = False
    since: float | None = None

    @property
    def title(self) -> str:
        """The workload as cluster.toml names it."""
        return title(Workload(self.name, self.runtime, ""))

    def to_json(self) -> dict[str, JsonValue]:
        """As a step's arguments."""
        return {
            "node": self.node,
            "name": self.name,
            "runtime": self.runtime,
            "gpu": self.gpu,
            "gap": self.gap,
            "patience": self.patience,
            "restart": self.restart,
            "since": self.since,
        }


class LeaveAlone:
    """A step for what is ready already; it never does anything."""

    def __init__(self, step: Step, context: Context) -> None:
        pass

    async def check(self) -> str:
        """Always."""
        return "already ready: left alone"

    async def apply(self, report: Report) -> None:
        """Never called."""

    async def verify(self, report: Report) -> str:
        """Only after a run that was broken off."""
        return await self.check()

    async def undo(self) -> None:
        """Nothing was done."""


class StartContainer:
    """Starts one workload and waits until it is ready; what it started it leaves alone, come what may."""

    def __init__(self, step: Step, context: Context) -> None:
        try:
            self._told = TypeAdapter(Start).validate_python(dict(step.arguments))
        except ValidationError as error:
            raise ProcedureError(f'The step "{step.label}" cannot be read: {error.error_count()} mistakes.') from None
        self._context = context
        self._clock = context.clock
        self._said = -SAY_EVERY

    async def check(self) -> str:
        """Running since the plan and ready: nothing to do. Where nobody can look now, `apply` waits until it can."""
        try:
            workload = await self._state()
            if not workload.running or self._is_old(workload):
                return ""
            found = await gate.readiness(self._context, self._told.node, workload)
        except ReachError:
            return ""
        return "already ready: left alone" if found.ready else ""

    async def apply(self, report: Report) -> None:
        """Wait until no other GPU container is starting, then start it, unless it runs already.

        Whatever takes time is followed by another look, so that the last thing before the start is the question.
        """
        patience = gate.Patience(self._clock, self._told.patience)
        for left in range(_MOST_STARTS - 1, -1, -1):
            if not await self._free_to_start(patience, report):
                return
            try:
                await (await self._runtime()).start(self._told.name)
                return
            except ReachError as error:
                if isinstance(error, RuntimeFailure) and (error.status is not None or not left):
                    raise trouble.refused(self._told.name, error) from error
                if not left:
                    raise
                report({"text": f"not sure that it was started, looking again: {error}"})

    async def verify(self, report: Report) -> str:
        """The gate."""
        notes = [await self._until_ready(report)]
        if self._told.gpu:
            notes.append(await self._until_steady(report, "ready"))
        if self._told.gap:
            self._say(report, "gap", 0.0, f"{notes[0]}; a pause of {self._told.gap:g} s")
            await self._clock.sleep(self._told.gap)
        workload = await self._state_when_reached(report)
        if not workload.running:
            raise await self._ended(workload)
        return ", ".join(note for note in notes if note)

    async def undo(self) -> None:
        """A container that was started is left alone."""

    # -- before the start ------------------------------------------------------------------------------------------

    async def _free_to_start(self, patience: gate.Patience, report: Report) -> bool:
        """Whether it is to be started now; False where it runs already."""
        while True:
            try:
                if self._told.gpu:
                    await self._after_others(report)
                workload = await self._state()
                if workload.state == "missing":
                    raise trouble.gone(self._told.name)
                if not self._is_old(workload) or not workload.running:
                    return not workload.running
                await self._stop(report)
            except ReachError as error:
                if isinstance(error, RuntimeFailure) and error.status is not None:
                    raise
                await self._endure(error, patience, report, "running")

    async def _after_others(self, report: Report) -> None:
        """Wait for every running GPU workload of this host that is not ready yet; halt by name where one hangs."""
        told, context = self._told, self._context
        patience = gate.Patience(self._clock, told.patience)
        watches: dict[str, gate.Watch] = {}
        async with AsyncExitStack() as stack:
            gauge = await stack.enter_async_context(gate.gauging(context, told.node, SAY_EVERY))
            while True:
                try:
                    found = await gate.blockers(context, told.node, told.title)
                except ReachError as error:
                    await self._endure(error, patience, report, "waiting")
                    continue
                if not found:
                    return
                workload, why = found[0]
                name = workload.name
                if name not in watches:
                    watch = gate.watching(context, told.node, workload.runtime, name)
                    watches[name] = await stack.enter_async_context(watch)
                patience.see("blockers", tuple(blocker.name for blocker, _ in found))
                patience.see("vram", gauge.step)
                patience.see("log", tuple(watch.count for watch in watches.values()))
                if patience.exhausted:
                    raise ProcedureError(
                        f"{name} runs, is not ready ({why}) and has made no progress for {patience.idle:.0f} s; "
                        f"{told.name} is not started behind it.",
                        f"Look at {name}; stop it or wait for it, then retry.",
                    )
                others = f" and {len(found) - 1} more" if len(found) > 1 else ""
                waiting: list[JsonValue] = [blocker.name for blocker, _ in found]
                figures: dict[str, JsonValue] = {"for": waiting, "vram_mib": gauge.mib}
                self._say(report, "waiting", patience.waited, f"waiting for {name}{others}: {why}", figures)
                await self._clock.sleep(patience.pause)

    async def _stop(self, report: Report) -> None:
        report({"text": f"stopping {self._told.name}", "gate": "stopping"})
        await (await self._runtime()).stop(self._told.name)
        if self._told.gpu:
            await self._until_steady(report, "stopped")

    # -- the gate --------------------------------------------------------------------------------------------------

    async def _until_ready(self, report: Report) -> str:
        told, context = self._told, self._context
        patience = gate.Patience(self._clock, told.patience)
        starts: set[float | None] = set()
        config_since: float | None = None
        async with (
            gate.watching(context, told.node, told.runtime, told.name) as watch,
            gate.gauging(context, told.node, SAY_EVERY) as gauge,
        ):
            while True:
                try:
                    workload = await self._state()
                    starts |= {workload.started_at} if workload.running else set()
                    await self._refuse_ended(workload, len(starts) - 1)
                    found = await gate.readiness(context, told.node, workload)
                except ReachError as error:
                    await self._endure(error, patience, report, "running")
                    continue
                finally:
                    if lines := watch.take():
                        report({"log": list(lines)})
                if found.ready:
                    text = f"ready after {patience.waited:.0f} s"
                    report(
                        {"text": text, "gate": "ready", "waited_s": round(patience.waited, 1), "vram_mib": gauge.mib}
                    )
                    return text
                config_since = (config_since or self._clock.now().mono) if found.config else None
                if config_since is not None and self._clock.now().mono - config_since >= CONFIG_PATIENCE:
                    raise ProcedureError(
                        f"{told.name} answers, but not as it should: {found.evidence}.",
                        "Waiting does not help: compare it with cluster.toml.",
                    )
                patience.see("state", (workload.state, workload.health, len(starts), found.answered))
                patience.see("log", watch.count)
                patience.see("vram", gauge.step)
                if patience.exhausted:
                    raise trouble.stuck(
                        workload, patience.idle, found.evidence, answered=found.answered, vram_mib=gauge.mib
                    )
                stage = "ready" if workload.running else "running"
                text = f"{'loading' if found.answered else 'starting'}: {found.evidence}"
                self._say(report, stage, patience.waited, text, _figures(gauge, patience, watch))
                await self._clock.sleep(patience.pause)

    async def _until_steady(self, report: Report, after: str) -> str:
        """Wait until GPU memory is steady; what is to be remarked about it, "" where it was as it should be."""
        begun = self._clock.now().mono
        gauge = gate.Gauge()
        try:
            async with asyncio.timeout(gate.STEADY_LIMIT):
                while True:
                    at = self._clock.now().mono
                    gauge.add(at, await self._context.vram(self._told.node))
                    if gauge.mib is None:
                        return "VRAM cannot be read: ready and gap only"
                    if gate.is_steady(gauge.samples):
                        return ""
                    self._say(report, "vram", at - begun, f"{after}; VRAM settles", {"vram_mib": gauge.mib})
                    await self._clock.sleep(max(0.0, gate.SAMPLE - (self._clock.now().mono - at)))
        except TimeoutError:
            warning = f"VRAM still moved after {gate.STEADY_LIMIT:.0f} s"
            report({"text": warning, "warning": warning, "gate": "vram"})
            return warning

    # -- small things ----------------------------------------------------------------------------------------------

    async def _state(self) -> Workload:
        return await (await self._runtime()).state(self._told.name)

    async def _state_when_reached(self, report: Report) -> Workload:
        patience = gate.Patience(self._clock, self._told.patience)
        while True:
            try:
                return await self._state()
            except ReachError as error:
                await self._endure(error, patience, report, "running")

    async def _runtime(self) -> Runtime:
        return await self._context.runtime(self._told.node, self._told.runtime)

    async def _endure(self, error: ReachError, patience: gate.Patience, report: Report, stage: str) -> None:
        """A node that cannot be touched may come back, for as long as the patience lasts."""
        if patience.exhausted:
            raise error
        self._say(report, stage, patience.waited, f"cannot look: {error}")
        await self._clock.sleep(max(1.0, 5 * patience.pause))

    async def _refuse_ended(self, workload: Workload, restarts: int) -> None:
        if workload.state == "missing":
            raise trouble.gone(self._told.name)
        if workload.state in ("exited", "dead") or restarts >= _MOST_RESTARTS:
            raise await self._ended(workload, 1 + max(0, restarts))

    async def _ended(self, workload: Workload, times: int = 1) -> ProcedureError:
        told = self._told
        lines = await gate.last_lines(self._context, told.node, told.runtime, told.name)
        return trouble.exited(workload, lines, times=times)

    def _is_old(self, workload: Workload) -> bool:
        return self._told.restart and workload.started_at == self._told.since

    def _say(
        self,
        report: Report,
        stage: str,
        waited: float,
        text: str,
        more: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Report a wait, at most once a second."""
        now = self._clock.now().mono
        if now - self._said >= SAY_EVERY:
            self._said = now
            report({"text": text, "gate": stage, "waited_s": round(waited, 1), **(more or {})})


def _figures(gauge: gate.Gauge, patience: gate.Patience, watch: gate.Watch) -> dict[str, JsonValue]:
    figures: dict[str, JsonValue] = {
        "vram_mib": gauge.mib,
        "idle_s": round(patience.idle, 1),
        "limit_s": patience.limit,
        "log_lines": watch.count,
    }
    return figures | ({"log_trouble": watch.trouble} if watch.trouble else {})
