"""Stops on-demand models that have been idle for long enough, for as long as somebody watches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from backends.clock import Clock
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Instant
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import TierdeckError
from backends.procedures.demand import plan_down
from backends.procedures.used import Used
from backends.world import World

LOOK_EVERY: Final = 5.0
"""Seconds between two looks."""

AGAIN: Final = 300.0
"""Seconds before a stop that failed is tried again."""


class Idle:
    """Judges by the counters that engines tell: one that tells none is never called idle."""

    def __init__(self, inventory: Inventory) -> None:
        self._endpoints = [e for e in inventory.endpoints if e.on_demand and e.idle and e.node]
        self._seen: dict[str, tuple[object, float]] = {}
        self._silent: dict[str, float] = {}

    def due(self, snapshot: ClusterSnapshot, now: Instant) -> tuple[list[str], list[str]]:
        """The endpoints to be stopped now, and those that just worked."""
        due, worked = [], []
        for endpoint in self._endpoints:
            state = snapshot.endpoints[endpoint.name]
            if not state.serving or state.progress is None:
                self._seen.pop(endpoint.name, None)
                continue
            pulse, before = state.progress.pulse, self._seen.get(endpoint.name)
            if before is None or before[0] != pulse or state.progress.works:
                self._seen[endpoint.name] = pulse, now.mono
                worked += [endpoint.name] if before is not None else []
            elif now.mono - before[1] >= (endpoint.idle or 0.0):
                due.append(endpoint.name)
        return due, worked

    def silent(self, snapshot: ClusterSnapshot, now: Instant) -> list[str]:
        """The endpoints that served for their idle time and told no counter meanwhile; each is named once."""
        found = []
        for endpoint in self._endpoints:
            state = snapshot.endpoints[endpoint.name]
            if not state.serving or state.progress is not None:
                self._silent.pop(endpoint.name, None)
            elif now.mono - self._silent.setdefault(endpoint.name, now.mono) >= (endpoint.idle or 0.0):
                self._silent[endpoint.name] = math.inf
                found.append(endpoint.name)
        return found


class Stopping:
    """Stops what is idle, for as long as it is watched; `say` takes a line for the log.

    One at a time on each node, and none while any procedure holds it: the next look comes soon.
    """

    def __init__(
        self, inventory: Inventory, world: World, clock: Clock, snapshot: Callable[[], ClusterSnapshot],
        say: Callable[[str], object], used: Used,
    ) -> None:  # fmt: skip
        self._inventory, self._world, self._clock = inventory, world, clock
        self._snapshot, self._say, self._used = snapshot, say, used
        self._idle = Idle(inventory)
        self._later: dict[str, float] = {}

    async def run(self) -> None:
        """Look every few seconds until cancelled; a stop that runs goes on without us."""
        while True:
            await self._clock.sleep(LOOK_EVERY)
            now, snapshot = self._clock.now(), self._snapshot()
            due, worked = self._idle.due(snapshot, now)
            for name in worked:
                self._used.note(name, now.wall)
            for name in self._idle.silent(snapshot, now):
                self._say(f"{name} tells no counters, so it is never called idle. Name its metrics_url, if it has one.")
            held = {procedure.node for procedure in snapshot.procedures if procedure.open}
            for endpoint in map(self._inventory.endpoint_named.__getitem__, due):
                if endpoint.node not in held and self._later.get(endpoint.name, 0.0) <= now.mono:
                    held.add(str(endpoint.node))
                    self._later[endpoint.name] = now.mono + AGAIN
                    await self._stop(endpoint)

    async def _stop(self, endpoint: Endpoint) -> None:
        try:
            plan = plan_down(self._inventory, self._snapshot(), endpoint, f"idle for {endpoint.idle or 0:.0f} s")
            await self._world.procedures.start(plan, attended=False)
        except TierdeckError as error:
            self._say(f"{endpoint.name} is idle and not stopped: {error}")
            return
        self._say(plan.title)
