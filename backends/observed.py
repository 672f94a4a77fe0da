"""Learns of memory by looking on: what engines say in their logs, once a start, and what drivers keep beside that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from backends.clock import Clock
from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, GpuProcess, Launch, Reading, Workload
from backends.cluster.snapshot import ClusterSnapshot, EndpointState
from backends.cluster.tables import Endpoint
from backends.errors import TierdeckError
from backends.figures import Figures, Observation, Overhead
from backends.memory.profiles import build_of
from backends.memory.spoken import Listener, Spoken
from backends.planned import settings_of

LINES: Final = 5000
"""How much of a log is read, from its end; a start says some hundreds."""

LIMIT: Final = 10.0
"""Seconds that reading it may take."""

YOUNG: Final = 1800.0
"""Seconds after a start for which its log is worth reading; later, requests have pushed its words far back."""

STEADY_MIB: Final = 16.0
"""What a process holds is steady when it moved by no more, ..."""

STEADY_FOR: Final = 30.0
"""... for so many seconds, in which its GPU's processes are listed at least once more."""

MOST_KEPT_MIB: Final = 4096.0
"""More than this beside its buffers is no driver's: then something else is loaded in that process, too."""

PAUSE: Final = 5.0
_SPEAKING: Final = {"llama.cpp", "vllm", "ollama"}
_LEARNED_FROM: Final = {"llama.cpp", "ollama"}
"""vLLM takes a share of the GPU, whatever its driver keeps."""
_BACKENDS: Final = {"nvidia": "CUDA", "amd": "ROCm", "apple": "MTL"}

Log = Callable[[str, str, int], AbstractAsyncContextManager[AsyncIterator[str]]]
"""The last lines of a workload's log, by node and name."""


class ObservedSource:
    """Looks at one log at a time; `seen` gives the latest snapshot."""

    key = "observed"
    topics = ("memory",)

    def __init__(
        self, inventory: Inventory, seen: Callable[[], ClusterSnapshot], log: Log, clock: Clock, figures: Figures
    ) -> None:
        self._inventory, self._seen, self._log, self._clock, self._figures = inventory, seen, log, clock, figures
        self._heard: set[str] = set()
        self._steady: dict[str, tuple[float, float, float]] = {}
        self._learned: dict[str, float] = {}

    async def read(self) -> tuple[Sequence[Reading], float]:
        """Nothing to fold: what is learned stands in the figures, from which predictions are made."""
        snapshot = self._seen()
        await asyncio.to_thread(self._figures.refresh)
        ready = list(self._ready(snapshot))
        starts = {_start(workload) for _, workload in ready}
        self._steady = {start: since for start, since in self._steady.items() if start in starts}
        for endpoint, workload in ready:
            if self._is_new(endpoint, workload):
                await self._hear(endpoint, workload)
                break
        for endpoint, workload in ready:
            if endpoint.engine in _LEARNED_FROM:
                await self._weigh(snapshot, endpoint, workload)
        return [], PAUSE

    def _ready(self, snapshot: ClusterSnapshot) -> Iterator[tuple[Endpoint, Workload]]:
        """Endpoints that serve from a GPU container that has started, each with that."""
        for endpoint in self._inventory.endpoints:
            workload = workload_of(snapshot, endpoint)
            speaks = endpoint.engine in _SPEAKING and snapshot.endpoints[endpoint.name].serving
            if speaks and workload and workload.id and workload.running and workload.gpu and workload.started_at:
                yield endpoint, workload

    def _is_new(self, endpoint: Endpoint, workload: Workload) -> bool:
        known = self._figures.observation(endpoint.node or "", workload.id)
        young = self._clock.now().wall - (workload.started_at or 0.0) < YOUNG
        return young and _start(workload) not in self._heard and (known is None or known.start != _start(workload))

    async def _hear(self, endpoint: Endpoint, workload: Workload) -> None:
        self._heard.add(_start(workload))
        listener = Listener()
        try:
            async with asyncio.timeout(LIMIT), self._log(endpoint.node or "", workload.name, LINES) as lines:
                async for line in lines:
                    listener.take(line)
        except (TierdeckError, TimeoutError):
            return  # its log cannot be read: what is predicted stands
        launch, said = workload.launch or Launch(), listener.said
        build = build_of(self._seen().endpoints[endpoint.name].version, workload.image)
        settings = settings_of(self._inventory, launch, build, said)
        place = endpoint.node or "", workload.name, workload.id, _start(workload)
        found = Observation(*place, launch.file, settings, said)
        await asyncio.to_thread(self._figures.observe, found)

    async def _weigh(self, snapshot: ClusterSnapshot, endpoint: Endpoint, workload: Workload) -> None:
        """Learn what the driver keeps, once what it and the engine tell has been the same for a while."""
        node = snapshot.nodes[endpoint.node or ""]
        known = self._figures.observation(node.name, workload.id)
        said = known.said if known and known.start == _start(workload) else None
        own, holders = _told(said, snapshot.endpoints[endpoint.name]), processes(node.gpus, workload)
        held = sum(process.used_mib or 0.0 for _, process in holders)
        start, now = _start(workload), self._clock.now().mono
        since, held_then, own_then = self._steady.get(start, (now, held, own))
        if abs(held - held_then) > STEADY_MIB or own != own_then:
            since, held_then = now, held
        self._steady[start] = since, held_then, own
        if not own or not holders or now - since < STEADY_FOR:
            return
        kept = (held - own) / len(holders)
        if not 0 <= kept <= MOST_KEPT_MIB or abs(kept - self._learned.get(start, -STEADY_MIB)) <= STEADY_MIB:
            return
        self._learned[start] = kept
        backend = (said.backend if said else "") or _BACKENDS.get(self._inventory.node_named[node.name].gpus, "")
        build = snapshot.endpoints[endpoint.name].version or ""
        for gpu in {gpu.name for gpu, _ in holders}:
            await asyncio.to_thread(self._figures.learn, Overhead(node.name, gpu, backend, build), start, kept)


def _start(workload: Workload) -> str:
    """One start of a container by a name of its own."""
    return f"{workload.id[:12]}@{workload.started_at or 0.0:.0f}"


def processes(gpus: Sequence[Gpu], workload: Workload) -> list[tuple[Gpu, GpuProcess]]:
    """The processes of a container on these GPUs of which the driver says what they hold."""
    return [
        (gpu, process)
        for gpu in gpus
        for process in gpu.processes or ()
        if process.container and workload.id.startswith(process.container[:12]) and process.used_mib is not None
    ]


def _told(said: Spoken | None, state: EndpointState) -> float:
    """MiB of GPUs that the engine said it holds: in its log, else where it is asked; 0 where it did not say."""
    if said and said.gpu_mib:
        return said.gpu_mib
    return sum(model.vram_mib or 0.0 for model in state.models if model.loaded is not False)
