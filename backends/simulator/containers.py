"""Containers and native services: programs with a state, a log and a restart policy."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backends.simulator.program import Program
from backends.simulator.world import World

Restart = Literal["no", "always", "unless-stopped", "on-failure"]
Notify = Callable[["SimContainer", str, Mapping[str, str]], None]


class LogBook:
    """Lines with their times, and followers who are woken by a new one."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self.open = False
        """Whether more may come."""

    def write(self, line: str) -> None:
        """One more line."""
        self.lines.append((time.time(), line))
        self.wake()

    def wake(self) -> None:
        """Have followers look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def changed(self) -> None:
        """Wait for a line or the end."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


@dataclass(slots=True)
class Spec:
    """How a container was created; `gpu` is a request for GPUs, `test` its health check's command."""

    name: str
    image: str = "ggml-org/llama.cpp:server-cuda"
    gpu: bool = False
    restart: Restart = "no"
    labels: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    volumes: dict[str, str] = field(default_factory=dict)
    inner_port: int = 8080
    published: int = 0
    """The port of the host that it was told to take; 0 where it was not."""
    healthcheck: bool = False
    stop_s: float = 0.4
    """How long it takes to end when told to."""
    raw: dict[str, Any] = field(default_factory=dict)
    """The body it was created with over the API."""


class SimContainer:
    """A container around a program; without a program (a lock, say) it only has a state."""

    def __init__(self, world: World, spec: Spec, program: Program | None, notify: Notify) -> None:
        self.world = world
        self.spec = spec
        self.program = program
        self.id = hashlib.sha256(f"{spec.name}{world.hex(16)}".encode()).hexdigest()
        self.created = time.time()
        self.started = 0.0
        self.finished = 0.0
        self.exit_code = 0
        self.oom_killed = False
        self.restarts = 0
        self.restarting = False
        self.starts = 0
        self.error = ""
        """What Docker says on start instead of starting, when not empty."""
        self.log = LogBook()
        self.removed = False
        self.stopped_by_hand = False
        self._to_end = False
        self._notify = notify
        self._task: asyncio.Task[None] | None = None
        if program is not None and spec.healthcheck:
            program.on_ready = lambda: self._notify(self, "health_status: healthy", {})
        self._exited = asyncio.Event()
        self._exited.set()

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._task is not None

    @property
    def state(self) -> str:
        """Docker's word for it."""
        if self.running:
            return "restarting" if self.restarting else "running"
        return "exited" if self.started else "created"

    @property
    def health(self) -> str | None:
        """Docker's word for its health check, None without one and before its first start."""
        if not self.spec.healthcheck or not self.started:
            return None
        if not self.running:
            return "unhealthy"
        return "healthy" if self.program is None or self.program.phase == "ready" else "starting"

    async def publish(self) -> None:
        """Take its port, for as long as it is there; Docker says only at a start that somebody else has it."""
        if self.program is None:
            return
        try:
            await self.program.server.__aenter__()
        except OSError:
            self.program = None
            self.error = (
                f"driver failed programming external connectivity on endpoint {self.name} ({self.id}): failed to bind "
                f"host port for 0.0.0.0:{self.spec.published}: address already in use"
            )

    async def unpublish(self) -> None:
        """Give back a port that it took."""
        if self.program is not None and self.spec.published:
            await self.program.server.__aexit__()

    def start(self, *, at_once: bool = False) -> None:
        """Start it; `at_once` skips its loading."""
        self.stopped_by_hand = self._to_end = False
        self._exited.clear()
        self._begun()
        self._task = asyncio.ensure_future(self._run(at_once))
        self._task.add_done_callback(self._gone)

    def _begun(self) -> None:
        self.started, self.finished = time.time(), 0.0
        self.exit_code, self.oom_killed, self.restarting = 0, False, False
        self.starts += 1
        self.log.open = True
        self._notify(self, "start", {})

    async def _run(self, at_once: bool) -> None:
        """Run, and run again for as long as the restart policy says so, with Docker's growing pauses."""
        cgroup = f"0::/system.slice/docker-{self.id}.scope"
        pause = 0.1
        while True:
            if self.spec.raw.get("Entrypoint") == ["/bin/true"]:
                self._died(0)
            elif self.program is None:
                await asyncio.Event().wait()
            else:
                self._died(await self.program.run(self.log.write, cgroup, at_once=at_once))
            if self._to_end or not self._comes_back():
                return
            self.restarting = True
            await self.world.sleep(pause)
            pause = min(60.0, pause * 2)
            self.restarts += 1
            self._begun()

    def _comes_back(self) -> bool:
        policy = self.spec.restart
        return policy in ("always", "unless-stopped") or (policy == "on-failure" and self.exit_code != 0)

    def _died(self, code: int) -> None:
        self.exit_code, self.finished = code, time.time()
        self.log.open = False
        self.log.wake()
        self._notify(self, "die", {"exitCode": str(code)})

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._task, self.restarting = None, False
        if not self.finished:
            self._died(137)
        self._exited.set()

    async def end(self, code: int, *, by_hand: bool = True) -> None:
        """End its process and have it exit with `code`; its restart policy does not act now.

        Nor when the engine starts again, for some policies, where it was ended `by_hand`.
        """
        self._to_end = True
        self.stopped_by_hand = self.stopped_by_hand or by_hand
        task = self._task
        if task is None:
            return
        if self.program is not None and self.program.phase != "stopped":
            self.program.crash(code)
        else:
            task.cancel()
        await self._exited.wait()
        self.exit_code = code

    async def stop(self, grace: float | None = None) -> None:
        """Stop it as `docker stop` does: politely, then by force (who hangs in CUDA needs force)."""
        self._notify(self, "kill", {"signal": "15"})
        hung = self.program is not None and self.program.hung
        wait = (10.0 if grace is None else grace) if hung else self.spec.stop_s
        await self.world.sleep(wait)
        if hung:
            self._notify(self, "kill", {"signal": "9"})
        await self.end(137 if hung else 0)
        self._notify(self, "stop", {})

    async def kill(self, signal: str = "9") -> None:
        """Kill it."""
        self._notify(self, "kill", {"signal": signal})
        await self.end(137)

    def crash(self, code: int, *last_words: str) -> None:
        """Have it end by itself; its restart policy acts."""
        for line in last_words:
            self.log.write(line)
        if self.program is not None:
            self.program.crash(code)

    async def wait(self) -> int:
        """Until it has ended; its exit code."""
        await self._exited.wait()
        return self.exit_code

    async def close(self) -> None:
        """End it without a word: the simulation is over."""
        self._to_end = True
        task, self._notify = self._task, lambda *_: None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class SimService:
    """A native service around a program, as systemd keeps it."""

    def __init__(self, world: World, name: str, program: Program) -> None:
        self.world = world
        self.name = name
        self.program = program
        self.log = LogBook()
        self.state = "inactive"
        self.since = 0.0
        self.restarts = 0
        self._task: asyncio.Task[None] | None = None

    def start(self, *, at_once: bool = False) -> None:
        """Start it."""
        if self._task is None:
            self.state, self.since = "active", time.time()
            self.log.open = True
            self._task = asyncio.ensure_future(self._run(at_once))
            self._task.add_done_callback(self._gone)

    async def _run(self, at_once: bool) -> None:
        cgroup = f"0::/system.slice/{self.name}.service"
        code = await self.program.run(self.log.write, cgroup, at_once=at_once)
        self.state = "failed" if code else "inactive"

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._task, self.since = None, time.time()
        self.log.open = False
        self.log.wake()

    async def stop(self) -> None:
        """Stop it."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.state = "inactive"

    async def restart(self) -> None:
        """Stop and start it."""
        self.restarts += 1
        await self.stop()
        await self.world.sleep(0.2)
        self.start()

    def crash(self, code: int = 1) -> None:
        """Have it fail."""
        self.program.crash(code)
