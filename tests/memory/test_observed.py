"""What is learned by looking on: a log once a start, and what a driver keeps once it is steady."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from backends.cluster.fold import empty, fold_all
from backends.cluster.inventory import Inventory
from backends.cluster.reading import (
    EndpointReading,
    Gpu,
    GpuProcess,
    GpuReading,
    Instant,
    Launch,
    ModelInfo,
    ProbeResult,
    Workload,
    WorkloadReading,
)
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.errors import RuntimeFailure
from backends.figures import Figures
from backends.observed import STEADY_FOR, YOUNG, ObservedSource
from backends.planned import observed
from tests.memory.test_spoken import CUDA

NOW = Instant(1e9, 1e3)
SAID = 8409.33
ID = "a" * 64
GPU = Gpu(0, "RTX 3090", memory_total_mib=24_576.0, memory_used_mib=9000.0)


def cluster(engine: str = "llama.cpp") -> Inventory:
    return Inventory.model_validate(
        {
            "version": 1,
            "name": "c",
            "nodes": [{"name": "mark", "address": "192.0.2.1", "gpus": "nvidia"}],
            "tiers": [{"name": "T"}],
            "endpoints": [
                {"name": "a", "tier": "T", "node": "mark", "engine": engine, "url": "http://h:1", "container": "a"}
            ],
        }
    )


@dataclass
class Scene:
    """A cluster of one container, whose log and processes a test changes; its clock stands still."""

    inventory: Inventory = field(default_factory=cluster)
    cause: Cause = Cause.OK
    models: tuple[ModelInfo, ...] = ()
    held: tuple[float, ...] = ()
    box: Workload = field(
        default_factory=lambda: Workload(
            "a",
            "docker",
            "running",
            ID,
            gpu=True,
            started_at=NOW.wall - 5,
            launch=Launch("volume:v/m.gguf", parallel=2),
        )
    )
    log: tuple[str, ...] | None = CUDA
    now_mono: float = NOW.mono
    heard: int = 0
    figures: Figures = field(default_factory=Figures)

    def __post_init__(self) -> None:
        self.source = ObservedSource(self.inventory, self.seen, self.lines, self, self.figures)

    def now(self) -> Instant:
        return Instant(NOW.wall, self.now_mono)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing waits")

    def seen(self) -> ClusterSnapshot:
        processes = tuple(GpuProcess(number, mib, ID) for number, mib in enumerate(self.held))
        readings = (
            GpuReading("mark", NOW, (replace(GPU, processes=processes),)),
            WorkloadReading("mark", NOW, (self.box,)),
            EndpointReading("a", NOW, ProbeResult(self.cause, "", 0.1, self.models, "b11549"), 5.0),
        )
        return fold_all(self.inventory, empty(self.inventory), readings)

    @asynccontextmanager
    async def lines(self, node: str, name: str, most: int) -> AsyncGenerator[AsyncIterator[str], None]:
        assert (node, name) == ("mark", "a")
        self.heard += 1
        if self.log is None:
            raise RuntimeFailure("no log")
        yield self._lines(self.log)

    async def _lines(self, log: tuple[str, ...]) -> AsyncIterator[str]:
        for line in log:
            yield line

    async def rounds(self, *seconds: float) -> None:
        for each in seconds:
            self.now_mono += each
            await self.source.read()

    @property
    def learned(self) -> list[tuple[str, str, str, float]]:
        return [(each.gpu, each.backend, each.build, each.mib) for each in self.figures.overheads]


async def test_a_log_is_read_once_a_start() -> None:
    scene = Scene()
    await scene.rounds(0, 5, 5)
    assert scene.heard == 1
    (found,) = scene.figures.observations
    assert found.said
    assert (found.said.gpu_mib, found.file, found.settings.parallel) == (SAID, "volume:v/m.gguf", 2)
    scene.box = replace(scene.box, started_at=NOW.wall)
    await scene.rounds(5, 5)
    assert scene.heard == 2


async def test_not_even_by_another_console() -> None:
    first = Scene()
    await first.rounds(0)
    second = Scene(figures=first.figures)
    await second.rounds(0, 5)
    assert second.heard == 0


@pytest.mark.parametrize(
    "scene",
    [
        Scene(cause=Cause.LOADING),
        Scene(box=Workload("a", "docker", "running", ID, gpu=True, started_at=NOW.wall - YOUNG - 1)),
        Scene(box=Workload("a", "docker", "running", ID, started_at=NOW.wall)),
        Scene(box=Workload("a", "docker", "exited", ID, gpu=True, started_at=NOW.wall)),
        Scene(inventory=cluster("lmstudio")),
    ],
    ids=["loading", "old", "on the CPU", "stopped", "silent engine"],
)
async def test_whose_log_is_not_read(scene: Scene) -> None:
    await scene.rounds(0, 5)
    assert scene.heard == 0
    assert scene.figures.observations == ()


@pytest.mark.parametrize("log", [None, ()])
async def test_a_log_that_says_nothing_changes_nothing(log: tuple[str, ...] | None) -> None:
    scene = Scene(log=log)
    await scene.rounds(0, 5)
    assert scene.heard == 1
    assert observed(scene.inventory, scene.seen(), scene.figures) == []


async def test_what_a_driver_keeps_is_learned_once_it_is_steady() -> None:
    scene = Scene(held=(SAID + 100,))
    await scene.rounds(0, STEADY_FOR)
    assert scene.learned == [("RTX 3090", "CUDA", "b11549", 100.0)]
    scene.held = (SAID + 400,)
    await scene.rounds(1, STEADY_FOR - 1)
    assert scene.learned[0][-1] == 100.0
    await scene.rounds(5)
    assert scene.learned == [("RTX 3090", "CUDA", "b11549", 400.0)]
    scene.held = (SAID + 405,)
    await scene.rounds(1, STEADY_FOR, STEADY_FOR)
    assert scene.learned[0][-1] == 400.0
    (prediction,) = observed(scene.inventory, scene.seen(), scene.figures)
    assert (prediction.mib, prediction.certainty, prediction.model) == (SAID + 400, "observed", "m.gguf")


async def test_what_is_no_driver_s_is_not_learned() -> None:
    for held in ((), (SAID - 50,), (SAID + 9000,)):
        scene = Scene(held=held)
        await scene.rounds(0, STEADY_FOR, STEADY_FOR)
        assert scene.learned == []


async def test_where_an_engine_is_asked_what_it_holds_that_counts() -> None:
    models = (ModelInfo("x", True, vram_mib=5000.0), ModelInfo("y", True, vram_mib=1000.0), ModelInfo("z", False))
    scene = Scene(inventory=cluster("ollama"), log=(), models=models, held=(5300.0, 1310.0))
    await scene.rounds(0, STEADY_FOR)
    assert scene.learned == [("RTX 3090", "CUDA", "b11549", 305.0)]


async def test_without_what_was_learned_the_most_that_is_known_counts() -> None:
    scene = Scene()
    await scene.rounds(0)
    (prediction,) = observed(scene.inventory, scene.seen(), scene.figures)
    assert prediction.mib == SAID + 555
    scene.box = replace(scene.box, id="b" * 64)
    assert observed(scene.inventory, scene.seen(), scene.figures) == []
