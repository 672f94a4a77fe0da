"""The ledger of a GPU, watched while a real container starts: engine, Docker, memory are real, the card is played."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from backends.clock import SystemClock
from backends.cluster.files import load
from backends.cluster.reading import Instant, PredictionReading
from backends.memory.ledger import Ledger, ledger
from backends.observed import STEADY_FOR
from backends.world import World
from tests.lab.engine import DockerEngine, container
from tests.lab.models import sparse_gguf
from tests.lab.process import free_port

SMI = Path(__file__).with_name("node") / "nvidia_smi.py"
LAYERS = 5
"""Of 119 MiB each."""


class Ahead(SystemClock):
    """A clock that a test puts forward."""

    ahead = 0.0

    def now(self) -> Instant:
        """This moment, and what was put to it."""
        now = super().now()
        return Instant(now.wall, now.mono + self.ahead)


def config(folder: Path, engine: DockerEngine, port: int) -> Path:
    """A cluster of this machine and one container."""
    node = {"name": "mark", "address": "127.0.0.1", "gpus": "nvidia", "docker": {"socket": str(engine.socket)}}
    where = {"url": f"http://127.0.0.1:{port}", "timeout": "1s", "node": "mark", "container": "mark-i"}
    endpoint = {"name": "remote/mark-i", "tier": "REMOTE", "engine": "llama.cpp", **where}
    told = {"version": 1, "name": "lab", "nodes": [node], "tiers": [{"name": "REMOTE"}], "endpoints": [endpoint]}
    path = folder / "cluster.toml"
    path.write_text(tomli_w.dumps(told))
    return path


async def test_what_is_reserved_shrinks_as_what_is_measured_grows(
    lab_docker: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f'#!/bin/sh\nexec {sys.executable} {SMI} {lab_docker.cgroup} "$@"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    lab_docker.put(sparse_gguf(tmp_path / "large.gguf", layers=LAYERS), "large.gguf")
    port, clock = free_port(), Ahead()
    env = {"VERBOSITY": "4", "PLAY_GPU": "1", "N_CTX": "2048", "N_PARALLEL": "1"}
    container(lab_docker, "mark-i", port, model="large.gguf", env=env, start=False)
    try:
        async with World(load(config(tmp_path, lab_docker, port)), "mark", tmp_path / "state", clock=clock) as world:
            await watched(world, clock, lab_docker)
    finally:
        lab_docker.docker("rm", "-f", "mark-i")


async def watched(world: World, clock: Ahead, engine: DockerEngine) -> None:
    """From before its start until what its driver keeps is learned."""
    snapshot = await world.look()
    predicting, learning = world.memory(lambda: snapshot)
    news, _ = await predicting.read()
    assert isinstance(news[0], PredictionReading)
    (prediction,) = news[0].predictions
    assert (prediction.endpoint, prediction.certainty) == ("remote/mark-i", "header")
    books: list[Ledger] = []
    engine.docker("start", "mark-i")
    async with asyncio.timeout(60):
        while not snapshot.endpoints["remote/mark-i"].serving:
            snapshot = replace(await world.look(), predicted=(prediction,))
            found = ledger(world.inventory, snapshot, world.inventory.nodes[0], snapshot.nodes["mark"].gpus[0])
            assert found
            books.append(found)
    coming = [each.reserved for each in books if each.entries]
    own = [each.entries[0].measured or 0.0 for each in books if each.entries]
    assert len(coming) >= 5, books
    assert own == sorted(own), "memory only grows while it loads"
    assert coming == sorted(coming, reverse=True), "and what is still to come only shrinks"
    assert len(set(coming)) >= 4
    assert coming[0] > 500
    assert coming[-1] == 0
    await learning.read()
    snapshot = await world.look()
    clock.ahead += STEADY_FOR + 1
    await learning.read()
    (seen,) = world.figures.observations
    (overhead,) = world.figures.overheads
    measured = books[-1].entries[0].measured
    assert seen.said
    assert measured
    assert seen.said.gpu_mib > LAYERS * 119, "its weights, its cache and its compute buffer"
    assert (overhead.gpu, overhead.backend) == ("NVIDIA GeForce RTX 3090", "CUDA")
    assert overhead.mib == pytest.approx(measured - seen.said.gpu_mib, abs=2)
    (after,) = (await world.look()).predicted
    assert (after.certainty, after.mib) == ("observed", pytest.approx(measured, abs=2))
