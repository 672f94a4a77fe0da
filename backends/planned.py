"""Predicts what each endpoint's models will take, from their headers: each is read once, and anew when it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backends.clock import Clock
from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Launch, Prediction, PredictionReading, Reading
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import TierdeckError
from backends.figures import Figures
from backends.library import Found
from backends.memory.estimate import estimate
from backends.memory.profiles import build_of, profile
from backends.memory.quants import CACHE_TYPES
from backends.memory.settings import Settings
from backends.memory.spoken import Spoken

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
    name = launch.file
    if not name.startswith("volume:") and endpoint.node != snapshot.here:
        name = f"ssh:{endpoint.node}:{name}"
    build = build_of(snapshot.endpoints[endpoint.name].version, workload.image)
    return [Wanted(endpoint.name, launch.file.rsplit("/", 1)[-1], name, settings_of(inventory, launch, build))]


def settings_of(inventory: Inventory, launch: Launch, build: int | None, said: Spoken | None = None) -> Settings:
    """The settings of a container: as its engine said or it is started, as the inventory has its model, by its build.

    What its arguments leave open is as llama.cpp's build has it, None for the newest.
    """
    known = next((each for each in inventory.models if each.file == launch.file), None)
    layers = launch.gpu_layers if launch.gpu_layers is not None else known.gpu_layers if known else None
    told, usual, own = said or Spoken(), Settings(), profile(build)
    slots = launch.parallel if launch.parallel and launch.parallel > 0 else None
    unified = own.unified and not slots if launch.unified is None else launch.unified
    layers = own.gpu_layers if layers is None else layers
    return Settings(
        context=told.context or launch.context or (known.context if known else None) or 0,
        parallel=told.slots or slots or own.parallel,
        unified=unified if told.unified is None else told.unified,
        batch=launch.batch or usual.batch,
        ubatch=launch.ubatch or usual.ubatch,
        cache_k=_kind(launch.cache_k),
        cache_v=_kind(launch.cache_v),
        flash=own.flash if launch.flash is None else launch.flash,
        gpu_layers=None if layers is None or layers < 0 else layers,
        cpu_moe=max(0, launch.cpu_moe or 0),
        every_output=own.every_output,
    )


def _kind(named: str | None) -> str:
    return named if named in CACHE_TYPES else "f16"


def observed(inventory: Inventory, snapshot: ClusterSnapshot, figures: Figures) -> list[Prediction]:
    """What the engines of containers that are still the same said at their latest start, driver included."""
    found = []
    for endpoint in inventory.endpoints:
        workload = workload_of(snapshot, endpoint)
        known = figures.observation(endpoint.node or "", workload.id) if workload and workload.id else None
        if known is None or known.said is None or not known.said.gpu_mib:
            continue
        infos = snapshot.endpoints[endpoint.name].models
        name = known.file.rsplit("/", 1)[-1] if known.file else infos[0].name if infos else endpoint.name
        driver = driver_mib(figures, snapshot, endpoint, known.said.backend)
        found.append(Prediction(endpoint.name, name, known.said.gpu_mib + driver, "observed"))
    return found


def driver_mib(figures: Figures, snapshot: ClusterSnapshot, endpoint: Endpoint, backend: str = "") -> float:
    """What the driver will keep beside an endpoint's model: as learned on its node, else the most that is known."""
    state, node = snapshot.endpoints[endpoint.name], snapshot.nodes.get(endpoint.node or "")
    gpu = node.gpus[0].name if node and node.gpus else ""
    return figures.driver(endpoint.node or "", gpu, backend, state.version or "") / _MIB


class PlannedSource:
    """One header at a time; `find` reads it, `seen` gives the latest snapshot, `figures` what was learned."""

    key = "memory"
    topics = ("memory",)

    def __init__(
        self,
        inventory: Inventory,
        seen: Callable[[], ClusterSnapshot],
        find: Callable[[str, str | None], Awaitable[Found]],
        clock: Clock,
        figures: Figures,
    ) -> None:
        self._inventory, self._seen, self._find, self._clock, self._figures = inventory, seen, find, clock, figures
        self._known: dict[Wanted, Prediction] = {}
        self._later: dict[Wanted, float] = {}
        self._told: tuple[Prediction, ...] = ()

    async def read(self) -> tuple[Sequence[Reading], float]:
        """All predictions by now, where they changed, with one more than the last time; nothing is loaded for it."""
        snapshot, now = self._seen(), self._clock.now()
        await asyncio.to_thread(self._figures.refresh)
        said = observed(self._inventory, snapshot, self._figures)
        spoken = {each.endpoint for each in said}
        asked = [each for each in wanted(self._inventory, snapshot) if each.endpoint not in spoken]
        self._known = {each: known for each, known in self._known.items() if each in asked}
        todo = [each for each in asked if each not in self._known and self._later.get(each, 0.0) <= now.mono]
        if todo:
            await self._predict(todo[0], now.mono)
        predictions, told = (*said, *(self._whole(snapshot, each) for each in self._known.values())), self._told
        self._told = predictions
        news = [] if predictions == told else [PredictionReading(now, predictions)]
        return news, _IDLE if asked and len(todo) < 2 else _BUSY

    def _whole(self, snapshot: ClusterSnapshot, each: Prediction) -> Prediction:
        """With what the driver keeps, where it takes of a GPU at all."""
        endpoint = self._inventory.endpoint_named[each.endpoint]
        driver = driver_mib(self._figures, snapshot, endpoint) if each.mib else 0.0
        return replace(each, mib=each.mib + driver)

    async def _predict(self, each: Wanted, now: float) -> None:
        node = self._inventory.endpoint_named[each.endpoint].node
        try:
            async with asyncio.timeout(LIMIT):
                found = await self._find(each.name, node)
            settings = replace(each.settings, context=each.settings.context or found.context)
            taken = await asyncio.to_thread(estimate, found.header, settings, 1, 0)
        except (TierdeckError, TimeoutError):
            self._later[each] = now + AGAIN
            return
        self._known[each] = Prediction(each.endpoint, each.model, taken.on("GPU0") / _MIB, taken.certainty)
