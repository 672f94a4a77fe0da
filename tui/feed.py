"""The console's live feed: opens the world once the first frame is painted, and closes it with the console."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from backends.clock import SystemClock
from backends.cluster.files import Loaded
from backends.cluster.snapshot import ClusterSnapshot
from backends.errors import ReachError
from backends.live import LiveCluster
from backends.poller import Poller
from backends.reloading import changes
from tui.setup import Setup

if TYPE_CHECKING:
    from backends.history.recorder import Recorder
    from backends.world import World

PACE_OVER_SSH = 0.5
"""Seconds between two snapshots at the most often, over SSH; half of that otherwise."""

CALM_OVER_SSH = 1.0
"""The same while every endpoint says what it said before: what figures do meanwhile is drawn once a second."""


COLLECTS = (2_000, 5, 1_000)
"""When cycles are looked for, all threads standing still: among 2,000 new objects, which takes 3 ms, then among five
times that; seldom among all, which with 1,000 endpoints takes 0.2 seconds. Snapshots have no cycles."""

GIVES_WAY = 0.0005
"""Seconds after which a thread that computes gives way: at Python's own 5 ms the history's thread held up the loop at
each of its system calls, of which a probe makes a dozen."""


class Feed:
    """Owns the world, the poller and the live cluster of one console."""

    def __init__(
        self,
        setup: Setup,
        publish: Callable[[ClusterSnapshot, ClusterSnapshot], None],
        crashed: Callable[[str, Exception], None],
        remark: Callable[[str], None] = lambda text: None,
        adopt: Callable[[Loaded], None] = lambda loaded: None,
    ) -> None:
        self._setup = setup
        self._adopt = adopt
        self._remark = remark
        self._crashed = crashed
        pace, calm = (PACE_OVER_SSH, CALM_OVER_SSH) if setup.over_ssh else (PACE_OVER_SSH / 2, 0.0)
        self.clock = SystemClock()
        inventory = setup.loaded.inventory
        self.live = LiveCluster(inventory, None, self.clock, publish, nudge=self.nudge, pace=pace, calm=calm)
        self._world: World | None = None
        self._poller: Poller | None = None

    async def run(self) -> None:
        """Feed until cancelled. The world's libraries take half a second to import: a thread does that meanwhile."""
        module = await asyncio.to_thread(importlib.import_module, "backends.world")
        gc.freeze()  # modules stay for good: no collection needs to walk them again, which cost a fifth of the start
        gc.enable()
        gc.set_threshold(*COLLECTS)
        sys.setswitchinterval(GIVES_WAY)
        setup = self._setup
        here = await asyncio.to_thread(setup.locate)
        self.live.stand_on(here)
        async with module.World(setup.loaded, here, setup.state_dir) as world:
            self._world = world
            recorder = await asyncio.to_thread(self._recorder, asyncio.get_running_loop())
            self.live.record_with(recorder.take)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.live.run(), name="live")
                    group.create_task(self._poll(world, recorder), name="inventory")
            finally:
                await asyncio.to_thread(recorder.close)  # a hung disk holds up nobody's last key

    async def _poll(self, world: World, recorder: Recorder) -> None:
        """Poll what the inventory names; where that changes, end all of it and go on with what it names then."""
        async with aclosing(changes(self._setup.loaded, self._remark, self.clock)) as coming:
            while True:
                sources = [*world.sources(self.live.is_down), *world.memory(lambda: self.live.snapshot)]
                self._poller = Poller(sources, world.streams(), self.live.emit, crashed=self._crashed)
                async with asyncio.TaskGroup() as group:
                    polling = group.create_task(self._poller.run(), name="poller")
                    loaded = await self._next(coming)
                    polling.cancel()
                await world.adopt(loaded)
                self.live.settle()  # what waits is of the former inventory
                self._adopt(loaded)
                self.live.adopt(loaded.inventory)
                recorder.adopt(loaded.inventory)

    async def _next(self, coming: AsyncGenerator[Loaded, None]) -> Loaded:
        """The next inventory; none ever comes to a console that shows the last good one."""
        if self._setup.banner:
            await asyncio.Event().wait()
        return await anext(coming)

    def _recorder(self, loop: asyncio.AbstractEventLoop) -> Recorder:
        """What records; blocks while SQLite is imported."""
        from backends.history.recorder import Recorder
        from backends.history.store import history_path

        def say(text: str) -> None:
            if text and not loop.is_closed():
                loop.call_soon_threadsafe(self._remark, text)

        inventory = self._setup.loaded.inventory
        return Recorder(history_path(self._setup.state_dir, inventory.name, self._setup.loaded.path), inventory, say)

    @property
    def world(self) -> World:
        """The world, once it is open."""
        if self._world is None:
            raise ReachError("The console is still opening.", "Try again in a second.")
        return self._world

    @property
    def snapshot(self) -> ClusterSnapshot:
        """The latest."""
        return self.live.snapshot

    def nudge(self, topic: str | None) -> int:
        """Probe what is about `topic` (None: everything) now; how many sources that is."""
        return self._poller.nudge(topic) if self._poller else 0
