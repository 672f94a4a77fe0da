"""The step that starts one container or native service, through the gate of its host.

running -> engine ready -> GPU memory steady -> a gap; never beside a GPU container that is not ready yet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from backends.cluster.reading import Workload
from backends.errors import ProcedureError, ReachError, RuntimeFailure
from backends.procedures import gate, trouble, turn
from backends.procedures.context import Context, title
from backends.procedures.plan import Step
from backends.procedures.runner import Report
from backends.reach.runtime import Runtime

CONFIG_PATIENCE: Final = 5.0
"""Seconds for which an engine may answer with a fault that no retry cures, before it counts."""

GLANCE: Final = 1.0
"""Seconds between two looks whether it still runs, while something else is waited for."""

_MOST_RESTARTS: Final = 2
_MOST_STARTS: Final = 2
_MOST_OUTAGES: Final = 5
_SIGNALLED: Final = (0, 137, 143)


class _TakenAlong(Exception):
    """Its Docker went away while it started, and it is not what was started any more."""


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


class StartContainer:
    """Starts one workload and waits until it is ready; what it started it leaves alone, come what may."""

    def __init__(self, step: Step, context: Context) -> None:
        try:
            self._told = TypeAdapter(Start).validate_python(dict(step.arguments))
        except ValidationError as error:
            raise ProcedureError(f'The step "{step.label}" cannot be read: {error.error_count()} mistakes.') from None
        self._context = context
        self._clock = context.clock
        self._begun = False
        self._starts: set[float | None] = set()
        self._outages = 0
        self._lines = 0

    async def check(self) -> str:
        """Running since the plan and ready: nothing to do. Where nobody can look now, `apply` waits until it can."""
        if self._context.outages.owed:
            return ""
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
                await self._context.confirm()
                with self._context.outages.watched():
                    await (await self._runtime()).start(self._told.name)
                self._begun = True
                return
            except ReachError as error:
                if isinstance(error, RuntimeFailure) and (error.status is not None or not left):
                    raise await self._refused(error) from error
                if not left:
                    raise
                report({"text": f"not sure that it was started, looking again: {error}"})

    async def verify(self, report: Report) -> str:
        """The gate; what went down with its Docker before it was through is queued again."""
        told = self._told
        for _ in range(_MOST_OUTAGES):
            try:
                return await self._gate(report)
            except _TakenAlong:
                report({"text": f"{told.name} went down with {told.node}'s Docker: queued again"})
                await self.apply(report)
        raise ProcedureError(
            f"{told.node}'s Docker went away {_MOST_OUTAGES} times while {told.name} started.",
            "See what becomes of it: journalctl -u docker",
        )

    async def undo(self) -> None:
        """A container that was started is left alone."""

    # -- before the start ------------------------------------------------------------------------------------------

    async def _free_to_start(self, patience: gate.Patience, report: Report) -> bool:
        """Whether it is to be started now; False where it runs already."""
        told, context = self._told, self._context
        voice = gate.Voice(report, self._clock)
        while True:
            try:
                await turn.put_right(context, told.node, told.title, report, self._again)
                if told.gpu and not await turn.wait_for_others(context, told.node, told.title, told.patience, voice):
                    continue
                workload = await self._state()
                if workload.state == "missing":
                    raise trouble.gone(told.name)
                if not self._is_old(workload) or not workload.running:
                    return not workload.running
                await self._stop(report)
            except ReachError as error:
                if isinstance(error, RuntimeFailure) and error.status is not None:
                    raise
                await voice.endure(error, patience, "running")

    async def _again(self, workload: Workload, report: Report) -> None:
        """Start another that ran before."""
        told = replace(self._told, name=workload.name, runtime=workload.runtime, gpu=workload.gpu, restart=False)
        told = replace(told, gap=self._context.inventory.node_named[told.node].queue.gap)
        other = StartContainer(Step("start_container", f"start {workload.name}", told.to_json()), self._context)
        await other.apply(report)
        await other.verify(report)

    async def _stop(self, report: Report) -> None:
        report({"text": f"stopping {self._told.name}", "gate": "stopping"})
        await self._context.confirm()
        await (await self._runtime()).stop(self._told.name)
        if self._told.gpu:
            await self._until_steady(report, "stopped", gate.Gauge())

    # -- the gate --------------------------------------------------------------------------------------------------

    async def _gate(self, report: Report) -> str:
        told = self._told
        self._starts, self._outages = set(), self._context.outages.count
        async with gate.gauging(self._context, told.node) as gauge:
            seconds = await self._until_ready(report, gauge)
        notes = [f"ready after {seconds:.0f} s"]
        if told.gpu:
            notes.append(await self._until_steady(report, "ready", gauge))
        if told.gap:
            await self._pause(report, notes[0])
        await self._refuse_other(await self._state_when_reached(report))
        if self._begun:
            notes.append(self._learn(seconds, gauge.took))
        return ", ".join(note for note in notes if note)

    async def _until_ready(self, report: Report, gauge: gate.Gauge) -> float:
        """Wait until its engine is ready; the seconds that took."""
        told, context = self._told, self._context
        patience = gate.Patience(self._clock, told.patience)
        voice = gate.Voice(report, self._clock)
        config_since: float | None = None
        async with gate.watching(context, told.node, told.runtime, told.name) as watch:
            while True:
                try:
                    workload = await self._state()
                    await self._note(workload)
                    found = await gate.readiness(context, told.node, workload)
                except ReachError as error:
                    await voice.endure(error, patience, "running")
                    continue
                finally:
                    self._lines = watch.count
                    if lines := watch.take():
                        report({"log": list(lines)})
                now = self._clock.now().mono
                if found.ready:
                    done: dict[str, JsonValue] = {"waited_s": round(patience.waited, 1), "vram_mib": gauge.mib}
                    report({"text": f"ready after {patience.waited:.0f} s", "gate": "ready", "progress": 1.0, **done})
                    return patience.waited
                config_since = (config_since or now) if found.config else None
                if config_since is not None and now - config_since >= CONFIG_PATIENCE:
                    raise ProcedureError(
                        f"{told.name} answers, but not as it should: {found.evidence}.",
                        "Waiting does not help: compare it with cluster.toml.",
                    )
                patience.see("state", (workload.state, workload.health, len(self._starts), found.answered))
                patience.see("log", watch.count)
                patience.see("vram", gauge.step)
                patience.see("share", watch.loading.share)
                if patience.exhausted:
                    raise await self._stuck(workload, found, patience.idle, gauge.mib)
                stage, verb = ("ready" if workload.running else "running"), "loading" if found.answered else "starting"
                text = f"{watch.loading.words(verb, patience.waited, gauge.took)} ({found.evidence})"
                voice.say(stage, patience.waited, text, _figures(gauge, patience, watch))
                await self._clock.sleep(patience.pause)

    async def _until_steady(self, report: Report, after: str, gauge: gate.Gauge) -> str:
        """Wait until GPU memory is steady; what is to be remarked about it, "" where it was as it should be."""
        begun = looked = self._clock.now().mono
        voice = gate.Voice(report, self._clock)
        gauge.samples.clear()
        try:
            async with asyncio.timeout(gate.STEADY_LIMIT):
                while True:
                    at = self._clock.now().mono
                    gauge.add(at, await self._context.vram(self._told.node))
                    if gauge.mib is None:
                        return "VRAM cannot be read: ready and gap only"
                    if gate.is_steady(gauge.samples):
                        return ""
                    if after == "ready" and at - looked >= GLANCE:
                        looked = at
                        await self._glance()
                    voice.say("vram", at - begun, f"{after}; VRAM settles", {"vram_mib": gauge.mib})
                    await self._clock.sleep(max(0.0, gate.SAMPLE - (self._clock.now().mono - at)))
        except TimeoutError:
            warning = f"VRAM still moved after {gate.STEADY_LIMIT:.0f} s"
            report({"text": warning, "warning": warning, "gate": "vram"})
            return warning

    async def _pause(self, report: Report, after: str) -> None:
        """The gap behind it; it is to run on meanwhile."""
        gap, begun = self._told.gap, self._clock.now().mono
        report({"text": f"{after}; a pause of {gap:g} s", "gate": "gap", "waited_s": 0.0})
        while (left := begun + gap - self._clock.now().mono) > 0:
            await self._clock.sleep(min(left, GLANCE))
            if left > GLANCE:
                await self._glance()

    async def _glance(self) -> None:
        """Whether it still runs; where nobody can look now, the last look of the gate tells."""
        try:
            workload = await self._state()
        except ReachError:
            return  # an outage that is counted
        await self._refuse_other(workload)

    async def _note(self, workload: Workload) -> None:
        """Take in a look at it; refuse what has ended, or ends again and again."""
        await self._refuse_other(workload, waiting=True)
        if workload.running:
            self._starts.add(workload.started_at)
            self._context.outages.began(self._told.title, workload.started_at)
        if workload.state in ("exited", "dead") or len(self._starts) > _MOST_RESTARTS:
            await self._refuse_ended(workload, max(1, len(self._starts)))

    async def _refuse_other(self, workload: Workload, *, waiting: bool = False) -> None:
        """It is to be what was started, unless its Docker was away; once it was ready it is also to run on."""
        if workload.state == "missing":
            raise trouble.gone(self._told.name)
        count = self._context.outages.count
        if count > self._outages:
            if not workload.running or workload.started_at not in self._starts:
                raise _TakenAlong
            self._outages = count
        if not (waiting or workload.running):
            await self._refuse_ended(workload)

    async def _refuse_ended(self, workload: Workload, times: int = 1) -> None:
        """It ended by itself, unless somebody told it to because its Docker goes away."""
        told, context = self._told, self._context
        signalled = workload.exit_code in _SIGNALLED and not workload.oom_killed
        if times < 2 and signalled and await turn.goes_away(context, told.node, told.title):
            raise _TakenAlong
        raise trouble.exited(workload, await self._last_lines(), times=times)

    # -- small things ----------------------------------------------------------------------------------------------

    async def _state(self) -> Workload:
        with self._context.outages.watched():
            return await (await self._runtime()).state(self._told.name)

    async def _state_when_reached(self, report: Report) -> Workload:
        patience, voice = gate.Patience(self._clock, self._told.patience), gate.Voice(report, self._clock)
        while True:
            try:
                return await self._state()
            except ReachError as error:
                await voice.endure(error, patience, "running")

    async def _runtime(self) -> Runtime:
        return await self._context.runtime(self._told.node, self._told.runtime)

    def _learn(self, seconds: float, mib: float | None) -> str:
        """Remember what it took; why that cannot be kept, or ""."""
        try:
            self._context.learned.learn(self._told.node, self._told.title, seconds, mib if self._told.gpu else None)
        except OSError as error:
            return f"what it took is not remembered ({error.strerror or error})"
        return ""

    async def _stuck(
        self, workload: Workload, found: gate.Readiness, idle: float, vram_mib: float | None
    ) -> ProcedureError:
        try:
            running = await gate.running(self._context, self._told.node)
            others = [w for t, w in running.items() if t != self._told.title]
            beside = [w for w, _ in await gate.blockers(self._context, self._told.node, others)]
        except ReachError:
            beside = []
        return trouble.stuck(
            workload,
            idle,
            found.evidence,
            answered=found.answered,
            vram_mib=vram_mib,
            lines=await self._last_lines(),
            others=beside,
        )

    async def _refused(self, error: RuntimeFailure) -> ProcedureError:
        try:
            known = await self._context.workloads(self._told.node)
        except ReachError:
            known = ()
        own = next((w for w in known if title(w) == self._told.title), None)
        own = own or Workload(self._told.name, self._told.runtime, "exited")
        return trouble.refused(own, error, [w for w in known if w.running])

    async def _last_lines(self) -> list[str]:
        """Those of this start, and as many as it may have written before anybody listened."""
        told, most = self._told, min(200, self._lines + 60)
        return await gate.last_lines(self._context, told.node, told.runtime, told.name, most)

    def _is_old(self, workload: Workload) -> bool:
        return self._told.restart and workload.started_at == self._told.since


class LeaveAlone(StartContainer):
    """A step for what was ready at the plan; only what an outage took along is started again."""

    async def check(self) -> str:
        """Looks only if the run was broken off, or the node was out of reach."""
        return await super().check() if self._context.outages.count else "already ready: left alone"


def _figures(gauge: gate.Gauge, patience: gate.Patience, watch: gate.Watch) -> dict[str, JsonValue]:
    figures: dict[str, JsonValue] = {
        **watch.loading.figures(patience.waited),
        "vram_mib": gauge.mib,
        "took_mib": gauge.took,
        "idle_s": round(patience.idle, 1),
        "limit_s": patience.limit,
        "log_lines": watch.count,
    }
    return figures | ({"log_trouble": watch.trouble} if watch.trouble else {})
