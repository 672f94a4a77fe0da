"""A host in virtual time whose CUDA driver has one lock: containers that initialise it at once hang for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Device, Gpu, ProbeResult, Workload
from backends.cluster.words import Cause
from backends.errors import ReachError, RuntimeFailure
from backends.procedures.context import Context, residence
from backends.reach.runtime import Runtime, RuntimeEvent
from tests.procedures.virtual import EPOCH, VirtualClock

ANSWER = 0.005
"""Seconds of every answer of the host."""


@dataclass
class Box:
    """A container and how it behaves; times in seconds."""

    name: str
    gpu: bool = True
    init: float = 1.5
    load: float = 0.5
    mib: float = 4000.0
    refuses: str = ""
    exits_after: float | None = None
    exit_code: int = 1
    oom: bool = False
    says: tuple[str, ...] = ()
    hangs: bool = False
    healthcheck: bool = False
    unhealthy: bool = False
    ready_cause: Cause = Cause.OK
    wobble: float = 0.0
    policy: str = "no"
    chatter: float = 0.0
    state: str = "exited"
    started: float | None = None
    phase: str = ""
    held: float = 0.0
    log: list[str] = field(default_factory=list)
    life: asyncio.Task[None] | None = None


class Host:
    """One node, its containers, and what happened to them."""

    def __init__(self, *boxes: Box, name: str = "mark", readable: bool = True) -> None:
        self.name = name
        self.boxes = {box.name: box for box in boxes}
        self.readable = readable
        self.starts: list[tuple[float, str]] = []
        self.stops: list[tuple[float, str]] = []
        self.ready_at: dict[str, float] = {}
        self.initialising: set[str] = set()
        self.most_at_once = 0
        self.down = False
        self.loses_next_start = ""
        """ "after": the line drops once the start was done; "before": before it was."""
        self.beside = 0
        """The most that initialised when the queue started another."""
        self.news = asyncio.Condition()

    # -- what containers do ----------------------------------------------------------------------------------------

    def begin(self, name: str) -> None:
        """Somebody starts a container."""
        box = self.boxes[name]
        now = asyncio.get_running_loop().time()
        self.starts.append((now, name))
        box.state, box.started, box.phase, box.held = "running", EPOCH + now, "init", 0.0
        box.life = asyncio.create_task(self._live(box))

    async def _live(self, box: Box) -> None:
        loop = asyncio.get_running_loop()
        for line in box.says:
            box.log.append(line)
        if box.exits_after is not None:
            await asyncio.sleep(box.exits_after)
            box.state, box.phase = "restarting" if box.policy == "always" else "exited", ""
            if box.policy == "always":
                await asyncio.sleep(0.1)
                self.begin(box.name)
            return
        if box.gpu:
            self.initialising.add(box.name)
            self.most_at_once = max(self.most_at_once, len(self.initialising))
            box.held = 300.0
            await asyncio.sleep(box.init)
            if box.hangs or len(self.initialising) > 1:
                await asyncio.Event().wait()
            self.initialising.discard(box.name)
        box.phase = "loading"
        for i in range(10):
            box.held = 300.0 + box.mib * (i + 1) / 10 if box.gpu else 0.0
            box.log.append(f"loaded {i + 1} of 10")
            await asyncio.sleep(box.load / 10)
        box.phase = "ready"
        self.ready_at[box.name] = loop.time()
        until = loop.time() + box.wobble
        while loop.time() < until:
            box.held += 200.0
            await asyncio.sleep(0.5)
            box.held -= 200.0
            await asyncio.sleep(0.5)
        while box.chatter:
            box.log.append("still here")
            await asyncio.sleep(box.chatter)

    def end(self, name: str) -> None:
        """Somebody stops a container."""
        box = self.boxes[name]
        if box.life:
            box.life.cancel()
        self.initialising.discard(name)
        box.state, box.phase, box.held = "exited", "", 0.0

    async def restart_docker(self, seconds: float = 3.0, answers: float = 0.0) -> None:
        """Its Docker stops all containers, `answers` for a while, goes away, and comes back with some, all at once."""
        self.down = not answers
        ran = [box.name for box in self.boxes.values() if box.state == "running"]
        for name in ran:
            self.end(name)
            self.boxes[name].exit_code = 137
        await asyncio.sleep(answers)
        self.down = True
        late = [box.name for box in self.boxes.values() if box.state == "running"]
        for name in late:
            self.end(name)
            self.boxes[name].exit_code = 137
        await asyncio.sleep(seconds)
        ran += late
        for box in self.boxes.values():
            if box.policy == "always" or (box.policy == "unless-stopped" and box.name in ran):
                self.begin(box.name)
        self.down = False

    def close(self) -> None:
        for name in self.boxes:
            self.end(name)

    def workload(self, box: Box) -> Workload:
        waiting = "unhealthy" if box.unhealthy else "starting"
        health = ("healthy" if box.phase == "ready" else waiting) if box.healthcheck else None
        return Workload(
            name=box.name,
            runtime="docker",
            state=box.state,
            health=health if box.state == "running" else None,
            started_at=box.started,
            exit_code=box.exit_code if box.state == "exited" and box.started else None,
            oom_killed=box.oom,
            gpu=box.gpu,
            restart_policy=box.policy,
        )

    # -- what a procedure sees -------------------------------------------------------------------------------------

    async def runtime(self, node: str, kind: str) -> Runtime:
        assert (node, kind) == (self.name, "docker")
        return HostRuntime(self)

    async def workloads(self, node: str) -> tuple[Workload, ...]:
        return await (await self.runtime(node, "docker")).workloads()

    async def answer(self) -> None:
        await asyncio.sleep(ANSWER)
        if self.down:
            raise RuntimeFailure(f"Docker on {self.name} does not answer.", "Is it running?")

    async def probe(self, inventory: Inventory, name: str) -> ProbeResult:
        await asyncio.sleep(ANSWER)
        box = self.boxes[residence(inventory.endpoint_named[name])]
        if box.state != "running" or box.phase == "init":
            return ProbeResult(Cause.REFUSED, "connect refused")
        if box.phase == "loading":
            return ProbeResult(Cause.LOADING, "503 Loading model")
        return ProbeResult(box.ready_cause, "answered", latency=ANSWER)

    async def vram(self, node: str) -> tuple[Gpu, ...] | None:
        await asyncio.sleep(0.03)
        if not self.readable:
            return None
        return (Gpu(0, "RTX 3090", memory_total_mib=24_000, memory_used_mib=sum(b.held for b in self.boxes.values())),)

    def context(self, inventory: Inventory) -> Context:
        async def probe(name: str) -> ProbeResult:
            return await self.probe(inventory, name)

        return Context(inventory, VirtualClock(), self.runtime, self.workloads, probe, self.vram)


@dataclass
class HostRuntime:
    """The host's containers behind the Runtime protocol."""

    host: Host
    kind: str = "docker"

    async def version(self) -> str:
        await self.host.answer()
        return "1"

    async def workloads(self) -> tuple[Workload, ...]:
        await self.host.answer()
        return tuple(self.host.workload(box) for box in self.host.boxes.values())

    async def devices(self) -> tuple[Device, ...]:
        return ()

    async def state(self, name: str) -> Workload:
        await self.host.answer()
        box = self.host.boxes.get(name)
        return self.host.workload(box) if box else Workload(name, "docker", "missing")

    async def start(self, name: str) -> None:
        await self.host.answer()
        box = self.host.boxes[name]
        lost, self.host.loses_next_start = self.host.loses_next_start, ""
        if box.refuses:
            raise RuntimeFailure(f"Docker on {self.host.name}: {box.refuses}", status=500)
        if lost != "before" and box.state != "running":
            self.host.beside = max(self.host.beside, len(self.host.initialising) if box.gpu else 0)
            self.host.begin(name)
        if lost:
            raise ReachError("the SSH connection was lost.")

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        await self.host.answer()
        self.host.stops.append((asyncio.get_running_loop().time(), name))
        self.host.end(name)

    @asynccontextmanager
    async def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AsyncGenerator[AsyncIterator[str], None]:
        await self.host.answer()
        yield self._lines(self.host.boxes[name], tail, follow)

    async def _lines(self, box: Box, tail: int, follow: bool) -> AsyncIterator[str]:
        seen = max(0, len(box.log) - tail)
        while True:
            for line in box.log[seen:]:
                yield line
            seen = len(box.log)
            if not follow or box.state != "running":
                return
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def events(self, *, since: float | None = None) -> AsyncGenerator[AsyncIterator[RuntimeEvent], None]:
        raise AssertionError("no step follows events: each asks for the state itself")
        yield
