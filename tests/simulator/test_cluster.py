"""The clusters as a whole: their inventory, their faults, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import stat
import tomllib
from pathlib import Path

import httpx
import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.words import TASKS
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo, many
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.simulator.conftest import ready, until

FAULTS = (
    "crash-mark-iii", "hang-mark-i", "wedge-mark-iv", "oom-mark-ii", "deadlock-mark", "docker-mark",
    "docker-hangs-mark", "ssh-mark", "ssh-key-mark", "power-mark", "cpu-desk", "gpu-desk", "nvml-mark", "slow-nas",
    "power-nas", "limit-gateway", "cooling-gateway",
)  # fmt: skip


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


async def test_the_demo_has_a_valid_inventory(sim: SimulatedCluster) -> None:
    inventory = Inventory.model_validate(tomllib.loads(sim.inventory))
    assert list(inventory.mistakes()) == []
    assert [tier.name for tier in inventory.tiers] == ["LOCAL", "REMOTE", "NAS", "GATEWAY"]
    assert inventory.assigned_tasks == TASKS
    assert inventory.chain("vision") == ("remote/mark-ii",)
    assert inventory.node_named["mark"].queue.order[0] == "mark-v"
    assert sim.inventory_path.read_text() == sim.inventory
    for name in ("id_ed25519", "known_hosts", "cluster.toml"):
        assert stat.S_IMODE((sim.directory / name).stat().st_mode) == 0o600
    key = inventory.endpoint_named["gateway/litellm"].api_key
    assert key is not None
    assert sim.secrets[key.removeprefix("env:")] not in sim.inventory


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    files, tasks = open_files(), len(asyncio.all_tasks())
    async with demo(tmp_path, speed=100) as sim:
        sockets = sim.nodes["mark"].docker_socket
        assert sockets is not None
        assert sockets.exists()
        await sim.inflict(sim.faults[1])
        port = sim.endpoints["remote/mark-i"].server.port
    assert not sockets.parent.exists()
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    await until(lambda: open_files() <= files)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_breaks_something_and_is_mended(
    sim: SimulatedCluster, client: httpx.AsyncClient, name: str
) -> None:
    fault = next(fault for fault in sim.faults if fault.id == name)
    before = await health(sim)
    await sim.inflict(fault)
    await until(lambda: fault.active)
    for _ in range(200):
        if await health(sim) != before:
            break
        await asyncio.sleep(0.005)
    else:
        pytest.fail("nothing changed")
    await sim.heal_all()
    for _ in range(400):
        if await health(sim) == before:
            return
        await asyncio.sleep(0.005)
    assert await health(sim) == before


def test_all_faults_are_tried(tmp_path: Path) -> None:
    assert tuple(fault.id for fault in demo(tmp_path).faults) == FAULTS


async def health(sim: SimulatedCluster) -> dict[str, object]:
    """Everything a fault of the catalogue can change, told without waiting."""
    seen: dict[str, object] = {}
    for name, endpoint in sim.endpoints.items():
        seen[name] = (endpoint.program.phase, endpoint.server.fault, endpoint.server.is_open, endpoint.engine.wedged)
    for name, node in sim.nodes.items():
        assert node.ssh is not None
        docker = (node.docker.server.is_open, node.docker.server.fault) if node.docker else None
        gpus = tuple(gpu.lost for gpu in node.host.gpus)
        seen[name] = (node.powered, docker, gpus, node.host.nvml_error, await banner(node.ssh.port), node.ssh.host_key)
    seen["on the CPU"] = sim.endpoints["local/ollama"].engine.device is None
    seen["cooling"] = getattr(sim.endpoints["gateway/litellm"].engine, "cooling", None)
    return seen


async def banner(port: int) -> str:
    """What an SSH port says first."""
    try:
        async with asyncio.timeout(0.2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return (await reader.readline()).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return type(error).__name__


async def test_power_off_silences_a_node_and_frees_its_gpu(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    mark = sim.nodes["mark"]
    await mark.power_off()
    with pytest.raises(httpx.ConnectTimeout):
        await client.get(sim.endpoints["remote/mark-i"].server.url + "/health", timeout=0.1)
    await until(lambda: mark.host.gpus[0].used_mib < 100)
    await mark.power_on(at_once=False)
    phases = {name: sim.endpoints[f"remote/{name}"].program.phase for name in ("mark-i", "mark-iii")}
    assert phases["mark-iii"] == "stopped"  # restart "no": nobody starts it after a boot
    await ready(sim.endpoints["remote/mark-i"])


async def test_a_cluster_that_cannot_be_opened_closes_again(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path / "file")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileExistsError):
        await sim.__aenter__()


async def test_many(tmp_path: Path, client: httpx.AsyncClient) -> None:
    async with many(tmp_path, nodes=25, endpoints=200, speed=10) as sim:
        inventory = Inventory.model_validate(tomllib.loads(sim.inventory))
        assert (len(inventory.nodes), len(inventory.endpoints)) == (25, 200)
        answers = await asyncio.gather(*(client.get(e.url + "/health") for e in inventory.endpoints[::20]))
        assert {answer.status_code for answer in answers} == {200}
        assert open_files() < 600


async def test_the_same_seed_tells_the_same_story(tmp_path: Path) -> None:
    first, second = (demo(tmp_path / name).nodes["mark"].host.gpus[0].uuid for name in "ab")
    assert first == second


async def test_a_host_name_or_localhost_reaches_the_endpoint(tmp_path: Path, client: httpx.AsyncClient) -> None:
    sim = SimulatedCluster(tmp_path)
    sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"]))
    async with sim:
        port = sim.endpoints["a"].server.port
        assert (await client.get(f"http://localhost:{port}/health")).status_code == 200


async def test_visitors_keep_the_engines_busy(tmp_path: Path) -> None:
    async with demo(tmp_path, speed=500, visitors=True) as sim:
        await until(lambda: sum(e.engine.predicted_tokens for e in sim.endpoints.values()) > 100)
        assert not any(e.engine.requests for e in sim.endpoints.values())
