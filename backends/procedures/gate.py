"""What a start waits for: signs of progress, an engine that is ready, GPU memory that is steady."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from backends.clock import Clock
from backends.cluster.reading import Gpu, ProbeResult, Workload
from backends.cluster.words import SERVING, Cause
from backends.engines.target import ProbeFailure
from backends.errors import ReachError
from backends.procedures.context import Context, endpoints_in, title
from backends.procedures.loading import Loading
from backends.procedures.runner import Report
from backends.text import plain

STEADY_MIB: Final = 64.0
"""GPU memory is steady when no GPU's moved by more, ..."""

STEADY_FOR: Final = 2.0
"""... for so many seconds, ..."""

SAMPLE: Final = 0.25
"""... looked at every so many seconds; ..."""

STEADY_LIMIT: Final = 15.0
"""... after so many the start goes on all the same, with a warning."""

MOVED_MIB: Final = 16.0
"""A change of GPU memory that counts as progress, in MiB."""

FRESH: Final = 15.0
"""Seconds in which a GPU container that nobody can ask may still be initialising CUDA."""

YOUNG: Final = 1.0
"""Seconds in which any other that nobody can ask may have ended without its Docker having learned of it."""

SAY_EVERY: Final = 1.0
"""Seconds between two reports of the same wait, and between two looks at the GPU memory meanwhile."""

REOPEN: Final = 1.0
"""Seconds before a log that ended is followed anew."""

READY: Final = SERVING | {Cause.RATE_LIMITED}
"""Causes of an engine that has started."""

FROM_HERE: Final = frozenset({Cause.DNS, Cause.TLS, Cause.UNREACHABLE})
"""Causes that tell of the way to an engine, not of the engine."""


class Patience:
    """Counts the seconds without progress."""

    def __init__(self, clock: Clock, limit: float) -> None:
        self._clock = clock
        self.limit = limit
        self._begun = self._moved = clock.now().mono
        self._signs: dict[str, object] = {}

    def see(self, sign: str, value: object) -> None:
        """Look at one sign of progress; another value than before is progress."""
        if sign in self._signs and self._signs[sign] != value:
            self._moved = self._clock.now().mono
        self._signs[sign] = value

    @property
    def waited(self) -> float:
        """Seconds in all."""
        return self._clock.now().mono - self._begun

    @property
    def idle(self) -> float:
        """Seconds since the last progress."""
        return self._clock.now().mono - self._moved

    @property
    def exhausted(self) -> bool:
        """Whether nothing moved for too long."""
        return self.idle >= self.limit

    @property
    def pause(self) -> float:
        """Seconds to the next look: 2% of the time waited, so that looking seldom costs no more than that."""
        return min(1.0, max(0.05, 0.02 * self.waited))


class Voice:
    """Tells what a step waits for, at most once a second."""

    def __init__(self, report: Report, clock: Clock) -> None:
        self.report = report
        self._clock = clock
        self._said = -SAY_EVERY

    def say(self, stage: str, waited: float, text: str, more: Mapping[str, JsonValue] | None = None) -> None:
        """It waits at `stage` of the gate, for `waited` seconds by now."""
        now = self._clock.now().mono
        if now - self._said >= SAY_EVERY:
            self._said = now
            self.report({"text": text, "gate": stage, "waited_s": round(waited, 1), **(more or {})})

    async def endure(self, error: ReachError, patience: Patience, stage: str) -> None:
        """A node that cannot be touched may come back, for as long as the patience lasts."""
        if patience.exhausted:
            raise error
        self.say(stage, patience.waited, f"cannot look: {error}")
        await self._clock.sleep(max(1.0, 5 * patience.pause))


class Watch:
    """The log of one container, followed: `count` lines so far, and those not told of yet."""

    def __init__(self, loading: Loading) -> None:
        self.loading = loading
        self.count = 0
        self.fresh: deque[str] = deque(maxlen=10)
        self.trouble = ""

    def take(self) -> list[str]:
        """The lines not told of yet, the last ten at most."""
        lines = list(self.fresh)
        self.fresh.clear()
        return lines


@asynccontextmanager
async def watching(context: Context, node: str, kind: str, name: str) -> AsyncIterator[Watch]:
    """Follow the log of a workload from now on; a log that breaks off is followed anew."""
    workload = title(Workload(name, kind, ""))
    watch = Watch(Loading(context.learned.expect(node, workload)))
    tasks = [asyncio.create_task(_follow(context, node, kind, name, watch))]
    for endpoint in endpoints_in(context.inventory, node, workload):
        tasks.append(asyncio.create_task(_listen(context, endpoint.name, watch.loading)))
    try:
        yield watch
    finally:
        for task in tasks:
            await _end(task)


async def _listen(context: Context, endpoint: str, loading: Loading) -> None:
    """What the engine itself tells of its loading, from when it answers on."""
    while True:
        try:
            async with aclosing(context.shares(endpoint)) as shares:
                async for share in shares:
                    loading.share = share
        except (ProbeFailure, ReachError):
            pass  # it does not listen yet; the gate itself says so
        await context.clock.sleep(REOPEN)


async def _follow(context: Context, node: str, kind: str, name: str, watch: Watch) -> None:
    while True:
        try:
            runtime = await context.runtime(node, kind)
            async with runtime.logs(name, tail=0, follow=True) as lines:
                watch.trouble = ""
                async for line in lines:
                    watch.count += 1
                    watch.loading.take(line)
                    if text := plain(line):
                        watch.fresh.append(text)
        except (ReachError, TimeoutError) as error:
            watch.trouble = str(error) or "no answer"
        await context.clock.sleep(REOPEN)


async def last_lines(context: Context, node: str, kind: str, name: str, most: int) -> list[str]:
    """The last lines of a log; what cannot be had is said in their place."""
    try:
        runtime = await context.runtime(node, kind)
        async with asyncio.timeout(5), runtime.logs(name, tail=most) as lines:
            return [text for text in [plain(line) async for line in lines] if text][-most:]
    except (ReachError, TimeoutError) as error:
        return [f"(its log cannot be read: {error or 'no answer'})"]


class Gauge:
    """The GPU memory of one node, sampled: `mib` is the last sum over its GPUs, None where it cannot be read."""

    def __init__(self) -> None:
        self.mib: float | None = None
        self.first: float | None = None
        self.samples: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=400)

    def add(self, at: float, gpus: tuple[Gpu, ...] | None) -> None:
        """Take in a reading of moment `at`."""
        used = tuple(g.memory_used_mib for g in gpus or () if g.memory_used_mib is not None)
        if gpus and len(used) == len(gpus):
            self.mib = sum(used)
            self.first = self.mib if self.first is None else self.first
            self.samples.append((at, used))
        else:
            self.mib = None
            self.samples.clear()

    @property
    def took(self) -> float | None:
        """What came to it since the first sample, in MiB."""
        return None if self.mib is None or self.first is None else max(0.0, self.mib - self.first)

    @property
    def step(self) -> int | None:
        """The memory in steps of `MOVED_MIB`; another step is progress."""
        return None if self.mib is None else round(self.mib / MOVED_MIB)


@asynccontextmanager
async def gauging(context: Context, node: str) -> AsyncIterator[Gauge]:
    """Sample the GPU memory of `node`, as often as is told of it."""
    gauge = Gauge()
    task = asyncio.create_task(_sample(context, node, gauge))
    try:
        yield gauge
    finally:
        await _end(task)


async def _sample(context: Context, node: str, gauge: Gauge) -> None:
    while True:
        gauge.add(context.clock.now().mono, await context.vram(node))
        await context.clock.sleep(SAY_EVERY)


def is_steady(samples: Sequence[tuple[float, tuple[float, ...]]]) -> bool:
    """Whether no GPU's memory moved by more than 64 MiB over the last 2 s, and there are 2 s to judge by."""
    if not samples:
        return False
    end = samples[-1][0]
    start = next((i for i in range(len(samples) - 1, -1, -1) if end - samples[i][0] >= STEADY_FOR), None)
    if start is None:
        return False
    window = [used for _, used in list(samples)[start:]]
    return all(max(column) - min(column) <= STEADY_MIB for column in zip(*window, strict=True))


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a workload is ready, and on what evidence; `answered` says that its engine says anything at all."""

    ready: bool
    evidence: str
    answered: bool = False
    config: bool = False


async def readiness(context: Context, node: str, workload: Workload) -> Readiness:
    """Ask the engines in `workload`; without any, its health check; without that, running is all there is to know."""
    if not workload.running:
        return Readiness(False, workload.error or workload.state)
    return judge(workload, await _probes(context, node, workload), context.clock.now().wall)


async def _probes(context: Context, node: str, workload: Workload) -> list[ProbeResult]:
    endpoints = endpoints_in(context.inventory, node, title(workload))
    return await asyncio.gather(*(context.probe(endpoint.name) for endpoint in endpoints))


def judge(workload: Workload, results: Sequence[ProbeResult], wall: float) -> Readiness:
    """What the probes of its engines, or else its health check, say of a running workload."""
    for result in results:
        if result.cause not in READY:
            answered = result.cause in (Cause.LOADING, Cause.CONFIG, Cause.BAD_RESPONSE)
            said = plain(result.evidence, 120)
            told = said if result.cause is Cause.LOADING else f"{result.cause.value}: {said}"
            return Readiness(False, told, answered, config=result.cause is Cause.CONFIG)
    if results:
        return Readiness(True, plain(results[0].evidence, 120), answered=True)
    if workload.health in ("starting", "unhealthy"):
        return Readiness(False, f"its health check says {workload.health}")
    fresh = FRESH if workload.gpu else YOUNG
    if workload.health is None and workload.started_at and 0 <= wall - workload.started_at < fresh:
        return Readiness(False, f"started {wall - workload.started_at:.0f} s ago, and nobody can ask it")
    return Readiness(True, workload.health or "running")


def blocks(workload: Workload, results: Sequence[ProbeResult], wall: float) -> str:
    """Why no other GPU container may start beside this one, or "": it is about to run, or runs and is not ready."""
    if not workload.running:
        return workload.error or workload.state
    telling = [r for r in results if r.cause not in FROM_HERE and r.cause is not Cause.CONFIG]
    if results and not telling:
        return "" if workload.health != "starting" else "its health check says starting"
    found = judge(workload, telling, wall)
    return "" if found.ready else found.evidence


async def running(context: Context, node: str) -> dict[str, Workload]:
    """The GPU workloads of `node` that run or are about to, by title; asked of the node itself."""
    with context.outages.watched():
        found = await context.workloads(node)
    return {title(w): w for w in found if w.gpu and w.astir}


async def blockers(context: Context, node: str, workloads: Iterable[Workload]) -> list[tuple[Workload, str]]:
    """Those of the running GPU `workloads` that are not ready, whoever started them, and why."""
    asked = list(workloads)
    results = await asyncio.gather(*(_probes(context, node, workload) for workload in asked))
    wall = context.clock.now().wall
    return [(w, why) for w, found in zip(asked, results, strict=True) if (why := blocks(w, found, wall))]


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, Exception):
        raise result
