"""Predicts what each endpoint's models will take, from their headers: each is read once, and anew when it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backends.clock import Clock
from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Prediction, PredictionReading, Reading
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import TierdeckError
from backends.library import Found
from backends.memory.estimate import estimate
from backends.memory.settings import Settings

LIMIT: Final = 30.0
"""Seconds that reading one header may take."""

AGAIN: Final = 300.0
"""Seconds after which a header that could not be read is tried again."""

_BUSY, _IDLE = 2.0, 10.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that an endpoint runs, the name its header is found by, and the settings it runs with."""

    endpoint: str
    model: str
    name: str
    settings: Settings


def wanted(inventory: Inventory, snapshot: ClusterSnapshot) -> list[Wanted]:
    """What endpoints run, as far as their containers, the inventory or Ollama say."""
    found: list[Wanted] = []
    for endpoint in inventory.endpoints:
        infos = snapshot.endpoints[endpoint.name].models
        if endpoint.engine == "ollama":
            found += [
                Wanted(endpoint.name, info.name, info.name, Settings(context=info.context or 0))
                for info in infos
                if info.loaded
            ]
        elif endpoint.engine == "llama.cpp":
            found += _by_container(inventory, snapshot, endpoint)
    return found


def _by_container(inventory: Inventory, snapshot: ClusterSnapshot, endpoint: Endpoint) -> list[Wanted]:
    workload = workload_of(snapshot, endpoint)
    launch = workload.launch if workload else None
    if workload is None or launch is None or not launch.file or not workload.gpu:
        return []
    model = launch.file.rsplit("/", 1)[-1]
    known = next((each for each in inventory.models if each.file == launch.file), None)
    context = launch.context or (known.context if known else None) or 0
    layers = launch.gpu_layers if launch.gpu_layers is not None else known.gpu_layers if known else None
    settings = Settings(
        context=context,
        batch=launch.batch or Settings().batch,
        flash=launch.flash is not False,
        gpu_layers=None if layers is None or layers < 0 else layers,
    )
    name = launch.file
    if not name.startswith("volume:") and endpoint.node != snapshot.here:
        name = f"ssh:{endpoint.node}:{name}"
    return [Wanted(endpoint.name, model, name, settings)]


class PlannedSource:
    """One header at a time; `find` reads it, `seen` gives the latest snapshot."""

    key = "memory"
    topics = ("memory",)

    def __init__(
        self,
        inventory: Inventory,
        seen: Callable[[], ClusterSnapshot],
        find: Callable[[str, str | None], Awaitable[Found]],
        clock: Clock,
    ) -> None:
        self._inventory, self._seen, self._find, self._clock = inventory, seen, find, clock
        self._known: dict[Wanted, Prediction] = {}
        self._later: dict[Wanted, float] = {}
        self._told: tuple[Prediction, ...] = ()

    async def read(self) -> tuple[Sequence[Reading], float]:
        """All predictions by now, where they changed, with one more than the last time; nothing is loaded for it."""
        snapshot, now = self._seen(), self._clock.now()
        asked = wanted(self._inventory, snapshot)
        self._known = {each: known for each, known in self._known.items() if each in asked}
        todo = [each for each in asked if each not in self._known and self._later.get(each, 0.0) <= now.mono]
        if todo:
            await self._predict(todo[0], now.mono)
        predictions, told = tuple(self._known.values()), self._told
        self._told = predictions
        news = [] if predictions == told else [PredictionReading(now, predictions)]
        return news, _IDLE if asked and len(todo) < 2 else _BUSY

    async def _predict(self, each: Wanted, now: float) -> None:
        node = self._inventory.endpoint_named[each.endpoint].node
        try:
            async with asyncio.timeout(LIMIT):
                found = await self._find(each.name, node)
            settings = replace(each.settings, context=each.settings.context or found.context)
            taken = await asyncio.to_thread(estimate, found.header, settings)
        except (TierdeckError, TimeoutError):
            self._later[each] = now + AGAIN
            return
        self._known[each] = Prediction(each.endpoint, each.model, taken.on("GPU0") / _MIB, taken.certainty)
