"""A running engine: its process, CUDA initialisation, memory on a GPU, and the moment it listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from backends.simulator.engines.base import Engine
from backends.simulator.httpserver import HttpServer
from backends.simulator.physics import CONTEXT_MIB, Device, Holding
from backends.simulator.world import World

Write = Callable[[str], None]


class Program:
    """Runs an engine once per `run`: prints its log, loads, listens, serves until it is cancelled or crashes.

    Durations are story seconds. `phase` is stopped, starting, initialising, loading or ready; who initialises CUDA
    while a neighbour does stays initialising for ever.
    """

    def __init__(
        self,
        world: World,
        engine: Engine,
        server: HttpServer,
        *,
        device: Device | None = None,
        vram_mib: float = 0.0,
        init_s: float = 1.5,
        load_s: float = 8.0,
    ) -> None:
        self.world = world
        self.engine = engine
        self.server = server
        self.device = device
        self.vram_mib = vram_mib
        self.init_s = init_s
        self.load_s = load_s
        self.phase = "stopped"
        self.pid = 0
        self.became_ready = asyncio.Event()
        self.on_ready: Callable[[], None] | None = None
        self._ending: asyncio.Future[int] | None = None

    @property
    def hung(self) -> bool:
        """Whether it hangs in CUDA initialisation."""
        return self.device is not None and self in self.device.host.cuda.hung

    def crash(self, code: int) -> None:
        """End it from inside with an exit code; nothing happens where it does not run."""
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(code)

    async def run(self, write: Write, cgroup: str, *, at_once: bool = False) -> int:
        """Run to the end and return the exit code; `at_once` skips initialising and loading."""
        self._ending = asyncio.get_running_loop().create_future()
        life = asyncio.ensure_future(self._live(write, cgroup, at_once))
        try:
            await asyncio.wait({life, self._ending}, return_when=asyncio.FIRST_COMPLETED)
            return life.result() if life.done() else self._ending.result()
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            self._ending = None

    async def _live(self, write: Write, cgroup: str, at_once: bool) -> int:
        engine = self.engine
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._ended)
            stack.push_async_callback(self.server.close)
            holding = None
            if self.device is not None and engine.holds_vram:
                holding = await stack.enter_async_context(self.device.process_on(cgroup))
                self.pid = holding.pid
            engine.born(write, self.device, cgroup)
            self.phase = "starting"
            for line in engine.boot_lines():
                write(line)
            if engine.listens_early:
                await self.server.open()
            if not at_once and (code := await self._load(write, holding)):
                return code
            if holding is not None:
                holding.move(self.vram_mib, 0.0)
            engine.ready = True
            self.phase = "ready"
            await self.server.open()
            self.became_ready.set()
            if self.on_ready is not None:
                self.on_ready()
            for line in engine.ready_lines(self.server.port):
                write(line)
            stack.push_async_callback(engine.ended)
            await engine.idle()
        return 0

    async def _load(self, write: Write, holding: Holding | None) -> int:
        """Initialise and load; returns an exit code where the memory does not suffice."""
        engine, device = self.engine, self.device
        if device is None or holding is None:
            await self._told(write, self.load_s)
            return 0
        self.phase = "initialising"
        if device.gpu.lost or device.host.nvml_error:
            for line in engine.no_device_lines():
                write(line)
            return 1
        await device.host.cuda.initialise(self, self.init_s)
        holding.move(CONTEXT_MIB, 0.0)
        for line in engine.device_lines(device.gpu.name, device.gpu.memory_total_mib):
            write(line)
        self.phase = "loading"
        free = device.gpu.memory_total_mib - device.gpu.promised_mib
        if self.vram_mib - CONTEXT_MIB > free:
            await self.world.sleep(self.load_s * 0.2)
            for line in engine.out_of_memory_lines(self.vram_mib, free):
                write(line)
            return 1
        holding.move(self.vram_mib, self.load_s)
        await self._told(write, self.load_s)
        return 0

    async def _told(self, write: Write, seconds: float) -> None:
        """Spread the lines of a load over its time."""
        lines = self.engine.load_lines(self.vram_mib if self.device else 0.0)
        for line in lines:
            write(line)
            await self.world.sleep(seconds / (len(lines) + 1))
        await self.world.sleep(seconds / (len(lines) + 1))

    def _ended(self) -> None:
        self.engine.ready = False
        self.became_ready.clear()
        self.phase = "stopped"
