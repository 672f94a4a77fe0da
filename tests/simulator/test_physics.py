"""Starting, deadlocking, filling up: what the hardware does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.vllm import Vllm
from backends.simulator.physics import SimGpu
from backends.simulator.world import World
from tests.simulator.conftest import ready, until


def cluster(folder: Path, *names: str, **options: object) -> SimulatedCluster:
    """GPU containers of one host, stopped, told two hundred times too fast."""
    sim = SimulatedCluster(folder, speed=200)
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
    for name in names:
        engine = LlamaCpp(sim.world, models=[f"/models/{name}.gguf"])
        sim.add_endpoint(
            name,
            engine,
            node="mark",
            container=Spec(name, gpu=True, **options),  # type: ignore[arg-type]
            gpu=0,
            vram_mib=4400,
            init_s=2.0,
            load_s=4.0,
            state="stopped",
        )
    return sim


async def test_one_after_the_other_both_serve(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", "b") as sim:
        gpu = sim.nodes["mark"].host.gpus[0]
        assert gpu.used_mib == pytest.approx(12)
        for name in ("a", "b"):
            sim.endpoints[name].start()
            await ready(sim.endpoints[name])
        assert gpu.used_mib == pytest.approx(12 + 2 * 4400)
        assert sim.nodes["mark"].host.cuda.deadlocks == 0


async def test_two_at_once_hang_until_they_are_stopped(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", "b") as sim:
        node = sim.nodes["mark"]
        a, b = sim.endpoints["a"], sim.endpoints["b"]
        a.start()
        await until(lambda: a.program.phase == "initialising")
        b.start()
        await until(lambda: b.program.hung)
        lines = len(node.container("a").log.lines)
        await sim.world.sleep(60)
        assert (a.program.phase, b.program.phase) == ("initialising", "initialising")
        assert node.container("a").state == "running"
        assert len(node.container("a").log.lines) == lines
        assert node.host.gpus[0].used_mib == pytest.approx(12)
        async with httpx.AsyncClient() as client:
            assert (await client.get(a.server.url + "/health")).status_code == 503
        await node.container("a").stop(2)
        assert node.container("a").exit_code == 137
        await sim.world.sleep(30)
        assert b.program.hung
        await node.container("b").kill()
        a.start()
        await ready(a)


async def test_memory_rises_while_it_loads_and_returns_after_it_ends(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as sim:
        gpu, a = sim.nodes["mark"].host.gpus[0], sim.endpoints["a"]
        a.start()
        seen: list[float] = []
        while not a.program.became_ready.is_set():
            seen.append(gpu.used_mib)
            await asyncio.sleep(0.001)
        assert seen == sorted(seen)
        assert len(gpu.processes()) == 1
        assert gpu.used_mib == pytest.approx(12 + 4400)
        await a.stop()
        assert gpu.processes() == ()
        await until(lambda: gpu.used_mib == pytest.approx(12))


class HandClock(World):
    """A world whose clock is set by hand."""

    now = 1000.0

    def story(self) -> float:
        return self.now


def test_memory_moves_evenly_and_is_held_a_while_after_its_process() -> None:
    world = HandClock()
    gpu = SimGpu(0, "NVIDIA GeForce RTX 3090", 24576, world)
    holding = gpu.claim(2311, "llama-server")
    assert gpu.used_mib == pytest.approx(12)
    holding.move(4400, 4.0)
    for second, mib in ((0, 0), (1, 1100), (2, 2200), (3, 3300), (4, 4400), (5, 4400)):
        world.now = 1000.0 + second
        assert gpu.used_mib == pytest.approx(12 + mib)
    gpu.release(holding)
    assert gpu.processes() == ()
    assert gpu.used_mib == pytest.approx(12 + 4400)
    world.now += 0.25
    assert 12 + 2200 <= gpu.used_mib <= 12 + 4400 * (1 - 0.25 / 1.5)
    world.now += 1.25
    assert gpu.used_mib == pytest.approx(12)


async def test_too_little_memory_ends_the_start(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as sim:
        sim.endpoints["a"].program.vram_mib = 48000
        container = sim.nodes["mark"].container("a")
        container.start()
        assert await container.wait() == 1
        assert any("cudaMalloc failed: out of memory" in line for _, line in container.log.lines)


async def test_restart_policies(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", restart="on-failure") as sim:
        container = sim.nodes["mark"].container("a")
        container.start(at_once=True)
        await ready(sim.endpoints["a"])
        container.crash(139, "Segmentation fault")
        await until(lambda: container.restarts == 1)
        await until(lambda: container.state == "running")
        await container.stop()
        assert (container.state, container.restarts, container.exit_code) == ("exited", 1, 0)
        assert container.starts == 2


async def test_llamacpp_listens_early_and_vllm_refuses_until_ready(tmp_path: Path) -> None:
    sim = cluster(tmp_path, "a")
    sim.add_endpoint("v", Vllm(sim.world, models=["m"]), load_s=1e6, state="starting")
    async with sim, httpx.AsyncClient() as client:
        sim.endpoints["a"].start()
        await until(lambda: sim.endpoints["a"].server.is_open)
        loading = await client.get(sim.endpoints["a"].server.url + "/health")
        assert (loading.status_code, loading.json()["error"]["message"]) == (503, "Loading model")
        with pytest.raises(httpx.ConnectError):
            await client.get(sim.endpoints["v"].server.url + "/health")


async def test_a_lost_gpu_and_a_broken_driver(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as sim:
        host, container = sim.nodes["mark"].host, sim.nodes["mark"].container("a")
        host.lose_gpu(0)
        container.start()
        assert await container.wait() == 1
        host.find_gpus()
        container.start()
        await ready(sim.endpoints["a"])


async def test_temperature_and_power_follow_the_load(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as sim:
        gpu = sim.nodes["mark"].host.gpus[0]
        cold, idle = gpu.celsius, gpu.watts
        with gpu.busy():
            assert gpu.utilization_pct > 50
            assert gpu.watts > idle + 100
            await until(lambda: gpu.celsius > cold + 5)
        assert gpu.utilization_pct == 0
