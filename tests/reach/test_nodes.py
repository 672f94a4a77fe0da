from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Endpoint
from backends.errors import RuntimeFailure, SshError
from backends.reach.docker import DockerRuntime
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from tests.reach.conftest import until


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    async with demo(tmp_path / "sim", speed=100.0) as sim:
        yield sim


def inventory_of(sim: SimulatedCluster, **nodes: dict[str, Any]) -> Inventory:
    """The simulator's inventory, with what is said of a node changed."""
    tables = tomllib.loads(sim.inventory)
    for table in tables["nodes"]:
        table.update(nodes.get(table["name"], {}))
    return Inventory.model_validate(tables)


async def lost(reach: NodeReach) -> None:
    """Wait until a node's connection is known to be gone."""
    link, _ = reach._remote()
    await until(lambda: not link.connected)


async def test_here_is_touched_without_ssh(sim: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIM_KEY_GATEWAY_LITELLM", "sk-secret")
    async with Reaches(inventory_of(sim), "mark", Secrets()) as reaches:
        mark = reaches["mark"]
        assert mark.is_here
        assert (await mark.shell.run(["echo", "local"], timeout=5)).stdout == "local\n"
        assert len(await (await mark.runtime()).workloads()) == 5
        environment = (await mark.shell.run(["env"], timeout=5)).stdout
        assert "PATH=" in environment
        assert "sk-secret" not in environment
    ssh = sim.nodes["mark"].ssh
    assert ssh is not None
    assert ssh.logins == 0


async def test_elsewhere_all_share_one_connection(sim: SimulatedCluster) -> None:
    async with Reaches(inventory_of(sim), None, Secrets()) as reaches:
        mark = reaches["mark"]
        docker = await mark.runtime()
        assert await mark.runtime() is docker
        done, workloads = await asyncio.gather(mark.shell.run(["hostname"], timeout=5), docker.workloads())
        assert done.stdout == "mark\n"
        assert len(workloads) == 5
        ssh = sim.nodes["mark"].ssh
        assert ssh is not None
        assert ssh.logins == 1
        assert await mark.runtime() is docker
    await until(lambda: not ssh.connections)


async def test_docker_is_found_again_after_a_dropped_connection(sim: SimulatedCluster) -> None:
    async with Reaches(inventory_of(sim), None, Secrets()) as reaches:
        docker = await reaches["mark"].runtime()
        assert len(await docker.workloads()) == 5
        ssh = sim.nodes["mark"].ssh
        assert ssh is not None
        await ssh.drop()
        await lost(reaches["mark"])
        assert len(await docker.workloads()) == 5
        await ssh.refuse()
        await ssh.drop()
        await lost(reaches["mark"])
        with pytest.raises(SshError, match=r"mark: 127\.0\.0\.1:.* refuses SSH"):
            await docker.workloads()
        await ssh.heal()
        assert len(await docker.workloads()) == 5


@pytest.mark.parametrize("change", [{"os": "windows", "docker": {}}, {"docker": {"context": "desktop"}}])
async def test_docker_by_dial_stdio(sim: SimulatedCluster, change: dict[str, Any]) -> None:
    async with Reaches(inventory_of(sim, mark=change), None, Secrets()) as reaches:
        docker = await reaches["mark"].runtime()
        assert len(await docker.workloads()) == 5
        dialled = [line for line in sim.nodes["mark"].commands.ran if "dial-stdio" in line]
        context = "--context desktop " if "context" in change["docker"] else ""
        assert set(dialled) == {f"docker {context}system dial-stdio"}
        assert len(dialled) <= 3
        engine = sim.nodes["mark"].docker
        assert engine is not None
        await engine.server.close()
        with pytest.raises(RuntimeFailure, match=r"Docker on mark: .*dial"):
            await docker.version()


async def test_local_docker_by_dial_stdio(
    sim: SimulatedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\necho "context \\"$2\\": context not found" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with Reaches(inventory_of(sim, mark={"docker": {"context": "desktop"}}), "mark", Secrets()) as reaches:
        with pytest.raises(RuntimeFailure, match='context "desktop": context not found') as caught:
            await (await reaches["mark"].runtime()).version()
        assert "docker context ls" in caught.value.advice


async def test_nodes_without_docker_or_without_a_way(sim: SimulatedCluster) -> None:
    inventory = inventory_of(sim, nas={"ssh": None})
    async with Reaches(inventory, None, Secrets()) as reaches:
        with pytest.raises(RuntimeFailure, match="desk has no Docker"):
            await reaches["desk"].runtime()
        for use in (lambda: reaches["nas"].shell, reaches["nas"].runtime):
            with pytest.raises(SshError, match=r"nas is not reached: no ssh in cluster\.toml"):
                await use()


async def test_socket_that_is_not_there(sim: SimulatedCluster) -> None:
    inventory = inventory_of(sim, mark={"docker": {"socket": "/run/user/1000/docker.sock"}})
    async with Reaches(inventory, None, Secrets()) as reaches:
        with pytest.raises(RuntimeFailure, match=r"Docker on mark: there is no socket /run/user/1000/docker\.sock"):
            await (await reaches["mark"].runtime()).version()


async def test_services(sim: SimulatedCluster) -> None:
    async with Reaches(inventory_of(sim), None, Secrets()) as reaches:
        assert reaches["mark"].services() is None
        services = reaches["desk"].services()
        assert services is not None
        (ollama,) = await services.workloads()
        assert (ollama.name, ollama.runtime, ollama.state, ollama.gpu) == ("ollama", "systemd", "running", True)
        await services.stop("ollama")
        assert (await services.state("ollama")).state == "exited"
        await services.start("ollama")
        assert (await services.state("ollama")).running
        assert (await services.state("nothing")).state == "missing"


def endpoint(url: str, **more: Any) -> Endpoint:
    return Endpoint.model_validate({"name": "e", "tier": "T", "node": "n", "engine": "http", "url": url, **more})


@pytest.mark.parametrize(
    ("address", "url", "here", "asked"),
    [
        ("10.0.0.9", "http://localhost:8080", False, "http://10.0.0.9:8080"),
        ("10.0.0.9", "https://LOCALHOST/base/path", False, "https://10.0.0.9/base/path"),
        ("fd00::9", "http://localhost:8080", False, "http://[fd00::9]:8080"),
        ("10.0.0.9", "http://localhost:8080", True, "http://localhost:8080"),
        ("10.0.0.9", "http://10.0.0.5:3009", False, "http://10.0.0.5:3009"),
        ("10.0.0.9", "http://localhost.lan:1", False, "http://localhost.lan:1"),
    ],
)
async def test_localhost_in_an_address_is_its_node(address: str, url: str, here: bool, asked: str) -> None:
    inventory = Inventory.model_validate({"version": 1, "name": "t", "nodes": [{"name": "n", "address": address}]})
    async with NodeReach(inventory.nodes[0], inventory, "n" if here else None, Secrets()) as reach:
        assert await reach.resolve_url(endpoint(url)) == asked


async def test_address_by_ssh(sim: SimulatedCluster) -> None:
    async with Reaches(inventory_of(sim), None, Secrets()) as reaches, httpx.AsyncClient() as client:
        there = sim.endpoints["remote/mark-i"].server
        through = endpoint(f"http://localhost:{there.port}/", node="mark", via="ssh")
        url = await reaches.resolve_url(through)
        assert url.startswith("http://127.0.0.1:")
        assert str(there.port) not in url
        assert (await client.get(f"{url}/health")).json() == {"status": "ok"}
        assert await reaches.resolve_url(through) == url
        assert reaches.trouble(through) is None
        metrics = await reaches.resolve_url(through, f"http://localhost:{there.port}/metrics")
        assert metrics == f"{url}/metrics"
        await there.close()
        async with httpx.AsyncClient() as fresh:
            with pytest.raises(httpx.RemoteProtocolError):
                await fresh.get(f"{url}/health")
        assert f"localhost:{there.port} cannot be opened on mark" in str(reaches.trouble(through))
        ssh = sim.nodes["mark"].ssh
        assert ssh is not None
        await ssh.hang()
        await ssh.drop()
        await lost(reaches["mark"])
        with pytest.raises(SshError, match=r"said nothing useful for 0\.2 s"):
            await reaches.resolve_url(through, timeout=0.2)
        elsewhere = endpoint("http://localhost:1", node=None)
        assert await reaches.resolve_url(elsewhere) == "http://localhost:1"
        assert reaches.trouble(elsewhere) is None


async def test_closing_leaves_nothing_behind(sim: SimulatedCluster) -> None:
    through = endpoint("http://localhost:1", node="mark", via="ssh")
    async with Reaches(inventory_of(sim), None, Secrets()) as reaches:
        docker = await reaches["mark"].runtime()
        assert isinstance(docker, DockerRuntime)
        async with docker.events(), docker.logs("mark-i", follow=True), reaches["mark"].shell.lines(["hostname"]):
            port = urlsplit(await reaches.resolve_url(through)).port
        client, socket = docker._client, Path(docker._socket)
        assert client is not None
        assert await asyncio.to_thread(socket.is_socket)
    assert client.session.closed
    assert not await asyncio.to_thread(socket.parent.exists)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


def test_nothing_costly_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, backends.reach.nodes; print([m for m in ('asyncssh', 'aiodocker', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
