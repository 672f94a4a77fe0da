"""A day of polling, as fast as it goes, while endpoints, Docker and SSH of its nodes flap: memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.clock import SystemClock
from backends.cluster.files import load
from backends.cluster.reading import EndpointReading, Reading
from backends.history.recorder import Recorder
from backends.live import LiveCluster
from backends.poller import Poller
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from backends.world import World
from tests.world.test_left_behind import Held, nothing_more
from tests.world.watching import until

ROUNDS = int(os.environ.get("TIERDECK_SOAK", "60"))
"""Probes of each endpoint; a day has 17,280 at the usual interval of 5 s."""
WARM = ROUNDS // 2
"""Rounds until all is loaded, opened, cached and filled that ever will be."""
FLAPS = 10
"""Rounds between two turns for the worse or the better."""
GROWTH = 1.05
"""Of the blocks of memory held once warm."""


class Rounds:
    """Counts the rounds, by the readings of an endpoint that is always there."""

    def __init__(self, live: LiveCluster) -> None:
        self.live = live
        self.count = 0
        self.causes: set[str] = set()
        self.crashes: list[str] = []

    def take(self, reading: Reading) -> None:
        if isinstance(reading, EndpointReading):
            self.causes.add(reading.result.cause.value)
            self.count += reading.endpoint == "gateway/litellm"
        self.live.emit(reading)

    def crashed(self, key: str, error: Exception) -> None:
        self.crashes.append(f"{key}: {error!r}")


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    sim = demo(tmp_path / "sim", speed=100.0)
    sim.extra["defaults"] = {"interval": "20ms", "timeout": "5s", "down_after": 2, "up_after": 1}
    async with sim:
        for name, value in sim.secrets.items():
            monkeypatch.setenv(name, value)
        yield sim


@asynccontextmanager
async def polling(sim: SimulatedCluster, state: Path) -> AsyncGenerator[Rounds, None]:
    """The console's engine with its history, without a screen."""
    loaded = load(sim.inventory_path)
    async with World(loaded, None, state) as world:
        recorder = Recorder(state / "history.sqlite", loaded.inventory, lambda text: None)
        live = LiveCluster(loaded.inventory, None, SystemClock(), lambda before, after: None, pace=0.02)
        live.record_with(recorder.take)
        rounds = Rounds(live)
        poller = Poller(world.sources(live.is_down), world.streams(), rounds.take, crashed=rounds.crashed)
        tasks = [asyncio.create_task(live.run()), asyncio.create_task(poller.run())]
        try:
            yield rounds
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(recorder.close)
    assert rounds.crashes == []


async def flapping(sim: SimulatedCluster, rounds: Rounds, end: int) -> None:
    """Let the cluster fall ill and recover until so many rounds are over."""
    chance = random.Random(7)
    faults = [fault for fault in sim.faults if "gateway" not in fault.id]
    crash = next(fault for fault in faults if fault.id == "crash-mark-iii")
    while rounds.count < end:
        active = [fault for fault in faults if fault.active]
        if len(active) > 2:
            await sim.heal(chance.choice(active))
        else:
            fault = chance.choice(faults) if len(rounds.causes) > 1 else crash
            await (sim.heal(fault) if fault.active else sim.inflict(fault))
        due = min(rounds.count + FLAPS, end)
        await until(lambda due=due: rounds.count >= due, f"round {due}", seconds=60)
    await sim.heal_all()


def held() -> int:
    """Blocks of memory that Python holds, here and in the simulator beside it; counting them costs nothing."""
    gc.collect()
    return sys.getallocatedblocks()


async def test_a_day_of_polling_leaves_memory_flat_and_nothing_behind(
    sim: SimulatedCluster, folder: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    async with polling(sim, state) as rounds:  # what is loaded and opened once and for all
        await until(lambda: rounds.count >= 5, "five rounds")
    before = Held.now(folder)
    async with polling(sim, state) as rounds:
        await flapping(sim, rounds, WARM)
        warm = held()
        await flapping(sim, rounds, ROUNDS)
        assert held() < GROWTH * warm + 5000, f"{warm} blocks once warm, {held()} after {ROUNDS} rounds"
        assert len(rounds.causes) >= 2, "it did fall ill"
    await nothing_more(before, folder)
