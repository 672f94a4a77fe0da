"""The ledger of a GPU: in rules, and watched while a container of the simulator starts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from backends.cluster.files import load
from backends.cluster.fold import empty, fold_all
from backends.cluster.inventory import Inventory
from backends.cluster.reading import (
    EndpointReading,
    Gpu,
    GpuProcess,
    GpuReading,
    Instant,
    ModelInfo,
    Prediction,
    PredictionReading,
    ProbeResult,
    Reading,
    Workload,
    WorkloadReading,
)
from backends.cluster.words import Cause
from backends.figures import Figures
from backends.memory.ledger import Ledger, ledger
from backends.planned import PlannedSource
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.world import World
from tests.memory.gguf_files import header
from tests.memory.models import Size, metadata, tensors

NOW = Instant(1e9, 1e3)
INVENTORY = Inventory.model_validate(
    {
        "version": 1,
        "name": "c",
        "nodes": [{"name": "mark", "address": "192.0.2.1", "gpus": "nvidia"}],
        "tiers": [{"name": "T"}],
        "endpoints": [
            {"name": name, "tier": "T", "node": "mark", "engine": "llama.cpp", "url": "http://h:1", "container": name}
            for name in ("a", "b")
        ],
    }
)


def books(*readings: Reading, used: float | None = 10_000.0, processes: tuple[GpuProcess, ...] = ()) -> Ledger | None:
    gpu = Gpu(0, "GPU", memory_total_mib=24_000.0, memory_used_mib=used, processes=processes)
    boxes = tuple(Workload(name, "docker", "running", id=name * 64, gpu=True) for name in "ab")
    first = (GpuReading("mark", NOW, (gpu,)), WorkloadReading("mark", NOW, boxes))
    snapshot = fold_all(INVENTORY, empty(INVENTORY), (*first, *readings))
    return ledger(INVENTORY, snapshot, INVENTORY.nodes[0], gpu)


def probe(name: str, cause: Cause, *models: ModelInfo) -> EndpointReading:
    return EndpointReading(name, NOW, ProbeResult(cause, "", 0.1, models), 5.0)


def planned(**mib: float) -> PredictionReading:
    return PredictionReading(NOW, tuple(Prediction(name, "m", size, "header") for name, size in mib.items()))


READY = probe("a", Cause.OK, ModelInfo("m", vram_mib=6000.0))
SILENT = probe("a", Cause.OK, ModelInfo("m"))
LOADING = probe("b", Cause.LOADING)
OF_B = (GpuProcess(1, 1500.0, "b" * 64),)


@pytest.mark.parametrize(
    ("readings", "processes", "attributed", "reserved", "rest"),
    [
        ([], (), 0, 0, 10_000),
        ([READY], (), 6000, 0, 4000),
        ([SILENT], (), 0, 0, 10_000),
        ([SILENT, planned(a=7000)], (), 7000, 0, 3000),
        ([READY, planned(a=7000)], (), 6000, 0, 4000),
        ([READY], (GpuProcess(1, 8000.0, "a" * 64),), 8000, 0, 2000),
        ([READY, LOADING], (), 6000, 0, 4000),
        ([READY, LOADING, planned(b=5000)], (), 10_000, 1000, 0),
        ([READY, LOADING, planned(b=3000)], (), 9000, 0, 1000),
        ([READY, LOADING, planned(b=5000)], OF_B, 7500, 3500, 2500),
    ],
)
def test_columns(
    readings: list[Reading], processes: tuple[GpuProcess, ...], attributed: float, reserved: float, rest: float
) -> None:
    found = books(*readings, processes=processes)
    assert found is not None
    assert (found.attributed, found.reserved, found.unattributed) == (attributed, reserved, rest)


def test_what_others_had_before_is_not_taken_for_what_it_took() -> None:
    """On Windows no process tells what it holds: then what came since the start does."""
    readings: list[Reading] = [planned(b=5000)]
    for state, used in (("exited", 7000.0), ("running", 7000.0), ("running", 9000.0)):
        box = Workload("b", "docker", state, id="b" * 64, gpu=True, started_at=NOW.wall if state == "running" else None)
        gpu = Gpu(0, "GPU", memory_total_mib=24_000.0, memory_used_mib=used)
        readings += [WorkloadReading("mark", NOW, (box,)), GpuReading("mark", NOW, (gpu,))]
    snapshot = fold_all(INVENTORY, empty(INVENTORY), [*readings, LOADING])
    found = ledger(INVENTORY, snapshot, INVENTORY.nodes[0], snapshot.nodes["mark"].gpus[0])
    assert found
    assert (found.attributed, found.reserved, found.unattributed) == (2000, 3000, 7000)


def test_without_a_measure_there_are_no_books() -> None:
    assert books(READY, used=None) is None


async def test_watched_while_it_starts(tmp_path: Path) -> None:
    """What is reserved shrinks as what is measured grows, and is nothing when it is ready."""
    size = Size(layers=24, embd=2048, heads=16, kv_heads=8, head=128, ff=8192, vocab=64000)
    raw, _ = header(metadata("llama", size), list(tensors("llama", size)))
    sim = SimulatedCluster(tmp_path / "sim", name="small")
    gpu = sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)
    sim.add_node("mark", gpus=[gpu])
    spec = Spec("a", gpu=True, volumes={"models-vol": "/models"}, environment={"MODEL_PATH": "/models/a.gguf"})
    sim.add_endpoint(
        "remote/a", LlamaCpp(sim.world, models=["/models/a.gguf"]), tier="T", node="mark", container=spec, gpu=0,
        vram_mib=3000.0, init_s=0.1, load_s=1.5, state="stopped",
    )  # fmt: skip
    async with sim:
        docker = sim.nodes["mark"].docker
        assert docker
        docker.containers["a"].files["/models/a.gguf"] = raw
        async with World(load(sim.inventory_path), None, tmp_path / "state") as world:
            snapshot = await world.look()
            source = PlannedSource(world.inventory, lambda: snapshot, world.find_model, world._clock, Figures())
            predicted, _ = await source.read()
            assert isinstance(predicted[0], PredictionReading)
            (prediction,) = predicted[0].predictions
            assert (prediction.endpoint, prediction.model, prediction.certainty) == ("remote/a", "a.gguf", "header")
            docker.containers["a"].start()
            seen: list[tuple[float, float]] = []
            async with asyncio.timeout(30):
                while not seen or not snapshot.endpoints["remote/a"].serving:
                    snapshot = replace(await world.look(), predicted=(prediction,))
                    node = world.inventory.nodes[0]
                    for each in snapshot.nodes["mark"].gpus:
                        found = ledger(world.inventory, snapshot, node, each)
                        assert found
                        seen.append((found.measured, found.reserved))
    reserved = [each for _, each in seen]
    measured = [each for each, _ in seen]
    assert measured == sorted(measured)
    assert reserved[-1] == 0
    assert max(reserved) > 500
    coming = reserved[reserved.index(max(reserved)) :]
    assert coming == sorted(coming, reverse=True)
    assert len(set(coming)) >= 3
