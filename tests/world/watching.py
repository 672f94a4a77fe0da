"""A console without a screen: World, Poller and LiveCluster together, as the console joins them, watched by a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from backends.clock import SystemClock
from backends.cluster.files import Loaded
from backends.cluster.reading import EndpointReading, Reading
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, NodeState
from backends.live import LiveCluster
from backends.poller import Poller
from backends.world import World

PATIENCE = 20.0
"""Seconds after which a test gives up waiting; never what a test measures."""

STARVED = 2.0
"""Seconds of a busy machine's slowness that are forgiven at most."""


async def until(condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> None:
    """Wait for a condition."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None


class Watch:
    """What was read and shown since `began`, on the event loop's clock."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.began = asyncio.get_running_loop().time()
        self.readings: list[Reading] = []
        self.crashes: list[str] = []
        self._lost: set[str] = set()
        self.shown: list[tuple[float, ClusterSnapshot]] = []
        self.live = LiveCluster(
            world.inventory, world.here, SystemClock(), self._show, nudge=lambda topic: self.poller.nudge(topic)
        )
        self.poller = Poller(world.sources(self.live.is_down), world.streams(), self._emit, crashed=self._crashed)

    def _emit(self, reading: Reading) -> None:
        if isinstance(reading, EndpointReading) and reading.endpoint in self._lost:
            return
        self.readings.append(reading)
        self.live.emit(reading)

    def _show(self, before: ClusterSnapshot, after: ClusterSnapshot) -> None:
        self.shown.append((asyncio.get_running_loop().time(), after))

    def _crashed(self, key: str, error: Exception) -> None:
        self.crashes.append(f"{key}: {type(error).__name__}: {error}")

    @property
    def snapshot(self) -> ClusterSnapshot:
        """The latest."""
        return self.live.snapshot

    def endpoint(self, name: str) -> EndpointState:
        """One endpoint as it is shown now."""
        return self.snapshot.endpoints[name]

    def node(self, name: str) -> NodeState:
        """One node as it is shown now."""
        return self.snapshot.nodes[name]

    def nudge(self, topic: str | None = None) -> int:
        """Ask for what is about `topic` now."""
        return self.poller.nudge(topic)

    def of(self, endpoint: str) -> list[EndpointReading]:
        """The readings of one endpoint so far."""
        return [r for r in self.readings if isinstance(r, EndpointReading) and r.endpoint == endpoint]

    async def until(self, condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> None:
        """Wait for a condition; the latest states are told where it does not come."""
        try:
            await until(condition, what, seconds=seconds)
        except AssertionError as error:
            ends = [f"{e.name}: {e.cause} {e.evidence}" for e in self.snapshot.endpoints.values()]
            nodes = [
                f"{n.name}: reach {n.reach_trouble}, workloads {n.workloads_trouble}, gpus {n.gpus_trouble}"
                for n in self.snapshot.nodes.values()
            ]
            raise AssertionError("\n".join([str(error), *ends, *nodes])) from None

    async def shows(self, condition: Callable[[ClusterSnapshot], object], what: str) -> tuple[float, ClusterSnapshot]:
        """Wait for a snapshot that fulfils a condition: seconds since `began` when it was shown, and itself."""

        def found() -> list[tuple[float, ClusterSnapshot]]:
            return [(at - self.began, snapshot) for at, snapshot in self.shown if condition(snapshot)]

        await self.until(found, what)
        return found()[0]

    def lose(self, endpoint: str) -> None:
        """Let no reading of it come in any more, as if its source had died."""
        self._lost.add(endpoint)

    def forget(self) -> None:
        """Begin to count anew."""
        self.readings.clear()
        self.shown.clear()
        self.began = asyncio.get_running_loop().time()


@asynccontextmanager
async def watching(loaded: Loaded, state_dir: Path, here: str | None = None) -> AsyncGenerator[Watch, None]:
    """Watch a cluster; no source may crash meanwhile."""
    async with World(loaded, here, state_dir) as world:
        watch = Watch(world)
        tasks = [asyncio.create_task(watch.live.run()), asyncio.create_task(watch.poller.run())]
        try:
            yield watch
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [e for e in ends if not isinstance(e, asyncio.CancelledError)] == []
        assert watch.crashes == []


class Yardstick:
    """Asks `port` for /health over a bare socket every `interval` seconds: the pace that this machine allows now.

    `late` sums up by how much the event loop itself came too late meanwhile, up to STARVED.
    """

    def __init__(self, port: int, interval: float) -> None:
        self.count = 0
        self._late = 0.0
        self._port = port
        self._interval = interval

    @property
    def late(self) -> float:
        """Seconds."""
        return min(self._late, STARVED)

    async def ask(self) -> None:
        """Ask at the interval until cancelled."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: yardstick\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            self.count += 1
            await asyncio.sleep(self._interval)

    async def beat(self) -> None:
        """Measure lateness until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            self._late += loop.time() - due


@asynccontextmanager
async def measuring(port: int, interval: float) -> AsyncGenerator[Yardstick, None]:
    """A yardstick that runs beside the test."""
    yardstick = Yardstick(port, interval)
    tasks = [asyncio.create_task(yardstick.ask()), asyncio.create_task(yardstick.beat())]
    try:
        yield yardstick
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [e for e in ends if not isinstance(e, asyncio.CancelledError)] == []
