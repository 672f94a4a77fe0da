"""Hardware: GPUs that fill up, warm up and fall off the bus, and hosts whose CUDA driver has one lock."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from backends.simulator.world import World

Vendor = Literal["nvidia", "amd", "apple", "none"]

CONTEXT_MIB = 280.0
"""What a CUDA context takes before a model is loaded; real ones take 107 to 555 MiB."""


@dataclass(slots=True, eq=False)
class Holding:
    """Memory that one process holds on one GPU; it moves to its goal at an even pace."""

    pid: int
    name: str
    clock: Callable[[], float]
    start_mib: float = 0.0
    goal_mib: float = 0.0
    begun: float = 0.0
    lasts: float = 0.0
    leaving: bool = False

    def move(self, goal_mib: float, seconds: float) -> None:
        """Go to `goal_mib` within so many story seconds."""
        self.start_mib, self.goal_mib = self.mib, goal_mib
        self.begun, self.lasts = self.clock(), seconds

    @property
    def mib(self) -> float:
        """MiB held now."""
        passed = self.clock() - self.begun
        if passed >= self.lasts:
            return self.goal_mib
        return self.start_mib + (self.goal_mib - self.start_mib) * passed / self.lasts


@dataclass(slots=True, eq=False)
class SimGpu:
    """One GPU; `unreadable` are the query fields that answer [N/A], `lost` is off the bus."""

    index: int
    name: str
    memory_total_mib: float
    world: World
    uuid: str = ""
    base_mib: float = 12.0
    idle_watts: float = 24.0
    max_watts: float = 350.0
    idle_celsius: float = 38.0
    unreadable: set[str] = field(default_factory=set)
    lost: bool = False
    active: int = 0
    holdings: list[Holding] = field(default_factory=list)
    _heat: float = 0.0
    _heat_at: float = 0.0

    def __post_init__(self) -> None:
        digits = self.world.hex(32)
        self.uuid = self.uuid or "GPU-" + "-".join(
            (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        )

    def claim(self, pid: int, name: str) -> Holding:
        """Memory for a process, nothing at first."""
        holding = Holding(pid, name, self.world.story)
        self.holdings.append(holding)
        return holding

    def release(self, holding: Holding) -> None:
        """Give a holding back; the memory itself returns over 0.5 to 1.5 seconds, as measured on real ones."""
        holding.leaving = True
        holding.move(0.0, self.world.rng.uniform(0.5, 1.5))

    def processes(self) -> tuple[Holding, ...]:
        """What still runs here."""
        return tuple(h for h in self.holdings if not h.leaving)

    @property
    def used_mib(self) -> float:
        """MiB in use, by whomever."""
        self.holdings[:] = [h for h in self.holdings if not h.leaving or h.mib > 0]
        return min(self.memory_total_mib, self.base_mib + sum(h.mib for h in self.holdings))

    @property
    def promised_mib(self) -> float:
        """MiB in use once everything that loads has loaded."""
        return self.base_mib + sum(max(h.mib, h.goal_mib) for h in self.holdings)

    @property
    def utilization_pct(self) -> int:
        """Percent busy."""
        filling = any(h.mib < h.goal_mib for h in self.holdings)
        return min(100, 62 * min(self.active, 1) + 12 * max(0, self.active - 1) + (18 if filling else 0))

    @property
    def celsius(self) -> float:
        """Temperature; follows the load within some twenty seconds."""
        now, goal = self.world.story(), self.utilization_pct * 0.42
        share = min(1.0, (now - self._heat_at) / 20.0) if self._heat_at else 1.0
        self._heat += (goal - self._heat) * share
        self._heat_at = now
        return self.idle_celsius + self._heat

    @property
    def watts(self) -> float:
        """Power draw."""
        return self.idle_watts + (self.max_watts - self.idle_watts) * self.utilization_pct / 100

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One more request computes here."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1


class CudaLock:
    """The driver-wide lock: who initialises CUDA while another does hangs with it, until stopped."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.initialising: set[object] = set()
        self.hung: set[object] = set()
        self.deadlocks = 0

    async def initialise(self, owner: object, seconds: float) -> None:
        """Hold the lock for so many story seconds; never returns for those who met."""
        self.initialising.add(owner)
        if len(self.initialising) > 1:
            self.deadlocks += 1
            self.hung |= self.initialising
        try:
            await self._world.sleep(seconds)
            if owner in self.hung:
                await asyncio.Event().wait()
        finally:
            self.initialising.discard(owner)
            self.hung.discard(owner)


class SimHost:
    """A machine: its operating system, GPUs and driver; commands over SSH read it."""

    def __init__(
        self,
        name: str,
        world: World,
        *,
        os: Literal["linux", "windows", "macos"] = "linux",
        vendor: Vendor = "none",
        gpus: Sequence[SimGpu] = (),
        memory_mib: float = 65536.0,
        driver: str = "570.86.15",
    ) -> None:
        self.name = name
        self.world = world
        self.os = os
        self.vendor = vendor
        self.gpus = list(gpus)
        self.memory_mib = memory_mib
        self.driver = driver
        self.cuda = CudaLock(world)
        self.nvml_error = ""
        """What nvidia-smi says instead of answering, when not empty."""
        self.smi_hangs = False
        self.clock_offset = 0.0
        """Seconds by which this machine's clock is ahead."""
        self.booted_at = time.time() - 86400.0 * 3
        self.boot_id = world.hex(32)
        self.kernel_log: list[str] = []
        self.cgroups: dict[int, str] = {}
        self._pids = itertools.count(2311, 7)

    def spawn(self, cgroup: str) -> int:
        """A new process; `cgroup` is what its /proc/PID/cgroup says."""
        pid = next(self._pids)
        self.cgroups[pid] = cgroup
        return pid

    def reap(self, pid: int) -> None:
        """A process is gone."""
        self.cgroups.pop(pid, None)

    def lose_gpu(self, index: int) -> None:
        """A GPU falls off the bus, as the kernel tells it (Xid 79)."""
        self.gpus[index].lost = True
        self.kernel_log.append(
            f"NVRM: Xid (PCI:0000:{index + 1:02x}:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
        )

    def find_gpus(self) -> None:
        """A reboot finds all GPUs again."""
        for gpu in self.gpus:
            gpu.lost = False
        self.kernel_log.clear()


@dataclass(slots=True)
class Device:
    """One GPU of a host, as an engine's process sees it."""

    host: SimHost
    gpu: SimGpu
    process: str = "/app/llama-server"

    @asynccontextmanager
    async def process_on(self, cgroup: str) -> AsyncIterator[Holding]:
        """A process with nothing on the GPU yet; on leaving, what it holds returns."""
        pid = self.host.spawn(cgroup)
        holding = self.gpu.claim(pid, self.process)
        try:
            yield holding
        finally:
            self.gpu.release(holding)
            self.host.reap(pid)
