"""The Docker double, asked by aiodocker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.httpfaults import HttpFault
from tests.simulator.conftest import ready, until


@pytest.fixture
async def docker(sim: SimulatedCluster) -> AsyncIterator[aiodocker.Docker]:
    async with aiodocker.Docker(f"unix://{sim.nodes['mark'].docker_socket}") as docker:
        yield docker


async def test_list_and_show(sim: SimulatedCluster, docker: aiodocker.Docker) -> None:
    assert (await docker.version())["ApiVersion"] == "1.51"
    listed = await docker.containers.list()
    names = {c._container["Names"][0] for c in listed}
    assert names == {"/mark-i", "/mark-ii", "/mark-iii", "/mark-iv", "/mark-v"}
    shown = await (await docker.containers.get("mark-i")).show()
    assert shown["State"]["Status"] == "running"
    assert shown["State"]["Health"]["Status"] == "healthy"
    assert shown["HostConfig"]["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
    assert shown["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    port = shown["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]
    assert int(port) == sim.endpoints["remote/mark-i"].server.port
    image = await docker.images.inspect(shown["Config"]["Image"])
    assert image["RepoDigests"]


async def test_stop_frees_memory_and_start_loads_again(sim: SimulatedCluster, docker: aiodocker.Docker) -> None:
    endpoint, gpu = sim.endpoints["remote/mark-iii"], sim.nodes["mark"].host.gpus[0]
    before = gpu.used_mib
    container = await docker.containers.get("mark-iii")
    await container.stop()
    assert (await container.show())["State"]["Status"] == "exited"
    await until(lambda: gpu.used_mib < before - 4300)
    assert len(await docker.containers.list()) == 4
    assert len(await docker.containers.list(all=True)) == 5
    await container.start()
    await ready(endpoint)
    assert gpu.used_mib == pytest.approx(before, abs=1)
    assert (await container.show())["State"]["ExitCode"] == 0


async def test_logs_tail_since_and_follow(sim: SimulatedCluster, docker: aiodocker.Docker) -> None:
    container = await docker.containers.get("mark-iii")
    await container.restart()
    await ready(sim.endpoints["remote/mark-iii"])
    whole = await container.log(stdout=True, stderr=True)
    assert any("offloaded 33/33 layers to GPU" in line for line in whole)
    assert len(await container.log(stdout=True, tail=2)) == 2
    stamped = await container.log(stdout=True, tail=1, timestamps=True)
    assert stamped[0].startswith("20")
    assert await container.log(stdout=True, since=int(2e9)) == []
    seen: list[str] = []

    async def follow() -> None:
        async for line in container.log(stdout=True, follow=True, tail=0):
            seen.append(line)

    task = asyncio.create_task(follow())
    await until(lambda: sim.nodes["mark"].docker.requests["GET /containers/{id}/logs"] >= 5)  # type: ignore[union-attr]
    sim.nodes["mark"].container("mark-iii").log.write("one more line")
    await until(lambda: seen == ["one more line\n"])
    await container.kill()
    await asyncio.wait_for(task, 5)


async def test_events_with_since_and_filters(sim: SimulatedCluster, docker: aiodocker.Docker) -> None:
    events: Any = docker.events.subscribe(  # type: ignore[no-untyped-call]
        since="1", filters=json.dumps({"event": ["die", "start"]})
    )
    await (await docker.containers.get("mark-v")).stop()
    actions: list[str] = []
    while actions[-1:] != ["die"]:
        event = await asyncio.wait_for(events.get(), 5)
        actions.append(event["Action"])
    assert actions.count("start") == 5
    assert event["Actor"]["Attributes"]["name"] == "mark-v"
    assert event["Actor"]["Attributes"]["exitCode"] == "0"


async def test_lock_container_conflicts(docker: aiodocker.Docker) -> None:
    image = (await docker.images.list())[0]["RepoTags"][0]
    container = await docker.containers.create({"Image": image, "Labels": {"owner": "a"}}, name="tierdeck-lock")
    with pytest.raises(aiodocker.DockerError) as refused:
        await docker.containers.create({"Image": image}, name="tierdeck-lock")
    assert refused.value.status == 409
    assert (await container.show())["State"]["Status"] == "created"
    await container.delete()
    with pytest.raises(aiodocker.DockerError) as missing:
        await docker.containers.get("tierdeck-lock")
    assert missing.value.status == 404
    assert "No such container" in missing.value.message


async def test_start_twice_is_not_modified(sim: SimulatedCluster) -> None:
    connector = aiohttp.UnixConnector(str(sim.nodes["mark"].docker_socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.post("http://docker/v1.44/containers/mark-i/start") as answer:
            assert answer.status == 304
        async with session.get("http://docker/v1.43/containers/json") as answer:
            assert answer.status == 400
            assert "too old" in (await answer.json())["message"]


async def test_faults(sim: SimulatedCluster, docker: aiodocker.Docker) -> None:
    engine = sim.nodes["mark"].docker
    assert engine is not None
    await engine.server.inflict(HttpFault("status", status=500))
    with pytest.raises(aiodocker.DockerError):
        await docker.version()
    await engine.server.inflict(HttpFault("half_open"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(docker.version(), 0.1)
    await engine.server.heal()
    assert await docker.version()
    await sim.nodes["mark"].stop_docker()
    with pytest.raises(aiodocker.DockerError, match="refused"):
        await docker.version()
    assert not sim.endpoints["remote/mark-i"].engine.ready
    await sim.nodes["mark"].start_docker()
    await ready(sim.endpoints["remote/mark-i"])
    assert not sim.endpoints["remote/mark-iii"].engine.ready


async def test_events_end_when_the_connection_does(sim: SimulatedCluster) -> None:
    engine = sim.nodes["mark"].docker
    assert engine is not None
    docker = aiodocker.Docker(f"unix://{sim.nodes['mark'].docker_socket}")
    events: Any = docker.events.subscribe()  # type: ignore[no-untyped-call]
    await until(lambda: engine.requests["GET /events"] == 1)
    engine.server.drop()
    assert await asyncio.wait_for(events.get(), 5) is None
    assert await docker.version()
    with pytest.raises(aiohttp.ClientPayloadError):
        await docker.close()
    await docker.session.close()


async def test_a_gpu_is_refused_where_there_is_none(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path)
    sim.add_node("nas")
    sim.add_container("nas", Spec("a", gpu=True), running=False)
    async with sim, aiodocker.Docker(f"unix://{sim.nodes['nas'].docker_socket}") as docker:
        with pytest.raises(aiodocker.DockerError, match="could not select device driver"):
            await (await docker.containers.get("a")).start()
