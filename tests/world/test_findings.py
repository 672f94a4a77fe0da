"""Engines that answer from the CPU, over real sockets: SSH, Docker, nvidia-smi and the engines themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.cluster import findings
from backends.cluster.files import load
from backends.cluster.words import Flaw, Verdict
from backends.gpus import source
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from tests.cli.driving import tierdeck
from tests.world.watching import watching


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    """Three engines on a node with a GPU: one on it, one beside it, one that Ollama had to put elsewhere."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    sim = SimulatedCluster(tmp_path / "sim", speed=100.0)
    sim.extra = {"defaults": {"interval": "100ms"}}
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
    for name, device in (("on", 0), ("beside", None)):
        engine = LlamaCpp(sim.world, models=["m"])
        sim.add_endpoint(name, engine, node="mark", container=Spec(name, gpu=True), gpu=device, vram_mib=4000)
    model = OllamaModel("m:1b", vram_mib=3000.0)
    sim.add_endpoint("ollama", Ollama(sim.world, library=[model], preload=["m:1b"]), node="mark")
    async with sim:
        yield sim


async def test_one_look_finds_them(sim: SimulatedCluster, tmp_path: Path) -> None:
    ran = await tierdeck("status", "--json", "--cluster", str(sim.inventory_path))
    told = json.loads(ran.out)["findings"]
    assert {(f["endpoint"], f["name"]) for f in told} == {("beside", "ON_CPU"), ("ollama", "ON_CPU")}
    assert all(f["evidence"] and f["cure"] for f in told)


async def test_a_container_that_loses_its_gpu(
    sim: SimulatedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "SETTLED", 0.5)
    monkeypatch.setattr(source, "PROCESSES_EVERY", 0.1)
    gpu, program = sim.nodes["mark"].host.gpus[0], sim.endpoints["on"].program
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: len(watch.snapshot.findings) == 2, "the two others are found")
        await watch.until(lambda: watch.node("mark").holds["on"].ever, "it was seen on the GPU")
        gpu.release(next(holding for holding in gpu.holdings if holding.pid == program.pid))
        await watch.until(lambda: len(watch.snapshot.findings) == 3, "it has lost its GPU")
        (lost,) = [f for f in watch.snapshot.findings if f.endpoint == "on"]
        assert lost.flaw is Flaw.GPU_LOST
        assert watch.endpoint("on").verdict is Verdict.UP
