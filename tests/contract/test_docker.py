"""The contract of Docker's API: what our runtime, the start queue and the lease stand on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from backends.errors import RuntimeFailure
from backends.reach.docker import DockerRuntime
from backends.reach.runtime import RuntimeEvent
from tests.contract.docker_parts import Dockers
from tests.contract.waiting import eventually
from tests.lab.parts import VOLUME


@asynccontextmanager
async def runtime_of(socket: str) -> AsyncGenerator[DockerRuntime, None]:
    runtime = DockerRuntime("mark", [socket])
    try:
        yield runtime
    finally:
        await runtime.close()


async def raw(socket: str, method: str, path: str, body: object = None) -> httpx.Response:
    """One request past our runtime."""
    transport = httpx.AsyncHTTPTransport(uds=socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=30) as client:
        return await client.request(method, path, json=body)


async def message(socket: str, method: str, path: str, body: object = None) -> tuple[int, str]:
    answer = await raw(socket, method, path, body)
    return answer.status_code, answer.json()["message"]


async def reaches(runtime: DockerRuntime, name: str, state: str) -> None:
    """Wait until a container is in a state."""

    async def is_there() -> bool:
        return (await runtime.state(name)).state == state

    await eventually(is_there, f"{name} is {state}")


async def test_containers_are_listed_with_what_they_are(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        assert (await runtime.version()).partition(".")[0].isdigit()
        found = {workload.name: workload for workload in await runtime.workloads()}
        assert set(found) == {part.gpu, part.plain}
        gpu, plain = found[part.gpu], found[part.plain]
        assert {w.runtime for w in found.values()} == {"docker"}
        assert (gpu.state, gpu.gpu, gpu.restart_policy, gpu.ports) == ("running", True, "unless-stopped", (part.port,))
        assert (plain.state, plain.gpu, plain.restart_policy) == ("running", False, "no")
        assert (gpu.health, gpu.exit_code, gpu.oom_killed, gpu.error) == (None, None, False, "")
        assert len(gpu.id) == 64
        assert gpu.image
        assert gpu.started_at is not None
        assert abs(time.time() - gpu.started_at) < 30
        assert await runtime.state(part.gpu) == gpu
        assert (await runtime.state("nobody")).state == "missing"


async def test_an_inspection_shows_gpu_requests_and_mounts(dockers: Dockers) -> None:
    async with dockers.running() as part:
        shown = (await raw(part.socket, "GET", f"/containers/{part.gpu}/json")).json()
        (request,) = shown["HostConfig"]["DeviceRequests"]
        assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])
        (mount,) = shown["Mounts"]
        assert (mount["Type"], mount["Name"], mount["Destination"]) == ("volume", VOLUME, "/models")
        assert mount["RW"] is True
        assert shown["HostConfig"]["Binds"] == [f"{VOLUME}:/models"]
        assert shown["HostConfig"]["RestartPolicy"] == {"Name": "unless-stopped", "MaximumRetryCount": 0}
        (bindings,) = shown["NetworkSettings"]["Ports"].values()
        assert str(part.port) in {binding["HostPort"] for binding in bindings}
        assert (shown["Name"], shown["RestartCount"]) == (f"/{part.gpu}", 0)
        plain = (await raw(part.socket, "GET", f"/containers/{part.plain}/json")).json()
        assert not plain["HostConfig"]["DeviceRequests"]
        listed = (await raw(part.socket, "GET", "/containers/json")).json()
        assert {name for item in listed for name in item["Names"]} == {f"/{part.gpu}", f"/{part.plain}"}
        assert {item["State"] for item in listed} == {"running"}
        assert all(item["Status"].startswith(("Up ", "Less than")) for item in listed)


async def test_starting_and_stopping_happen_once(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        await runtime.start(part.plain)
        assert (await raw(part.socket, "POST", f"/containers/{part.plain}/start")).status_code == 304
        begun = (await runtime.state(part.plain)).started_at
        for _ in range(2):
            await runtime.stop(part.plain, grace=5)
        assert (await raw(part.socket, "POST", f"/containers/{part.plain}/stop")).status_code == 304
        stopped = await runtime.state(part.plain)
        assert (stopped.state, stopped.running, stopped.exit_code) == ("exited", False, 0)
        assert {w.name: w.state for w in await runtime.workloads()} == {part.gpu: "running", part.plain: "exited"}
        running = (await raw(part.socket, "GET", "/containers/json")).json()
        assert [item["Names"] for item in running] == [[f"/{part.gpu}"]]
        await runtime.start(part.plain)
        again = await runtime.state(part.plain)
        assert again.state == "running"
        assert again.started_at is not None
        assert begun is not None
        assert again.started_at > begun


async def test_what_is_not_there(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        with pytest.raises(RuntimeFailure, match="There is no container nobody on mark") as caught:
            await runtime.start("nobody")
        assert caught.value.status == 404
        for method, route in (("POST", "start"), ("POST", "stop"), ("GET", "json"), ("GET", "logs?stdout=1")):
            answered = await message(part.socket, method, f"/containers/nobody/{route}")
            assert answered == (404, "No such container: nobody"), route
        status, words = await message(part.socket, "GET", "/nope")
        assert (status, words) == (404, "page not found")


async def test_versions_that_are_not_spoken(dockers: Dockers) -> None:
    async with dockers.running() as part:
        old, new = [await raw(part.socket, "GET", f"/v1.{n}/containers/json") for n in (1, 99)]
        assert (old.status_code, new.status_code) == (400, 400)
        assert "client version 1.1 is too old. Minimum supported API version is 1." in old.text
        assert "client version 1.99 is too new. Maximum supported API version is 1." in new.text


async def test_how_it_ended(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        await part.exits(part.plain)
        await reaches(runtime, part.plain, "exited")
        assert (await runtime.state(part.plain)).exit_code == 3
        await runtime.start(part.plain)
        assert (await raw(part.socket, "POST", f"/containers/{part.plain}/kill")).status_code == 204
        await reaches(runtime, part.plain, "exited")
        assert (await runtime.state(part.plain)).exit_code == 137
        status, words = await message(part.socket, "POST", f"/containers/{part.plain}/kill")
        assert status == 409
        assert "is not running" in words


async def test_a_policy_brings_back_what_ended_by_itself(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        begun = (await runtime.state(part.gpu)).started_at

        async def came_back() -> bool:
            now = await runtime.state(part.gpu)
            return now.started_at != begun and now.state == "running"

        await part.exits(part.gpu)
        await eventually(came_back, "it runs again")
        shown = (await raw(part.socket, "GET", f"/containers/{part.gpu}/json")).json()
        assert shown["RestartCount"] == 1
        await runtime.stop(part.gpu, grace=5)
        assert (await runtime.state(part.gpu)).state == "exited", "not what a person stopped"


async def test_logs(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime, asyncio.timeout(30):

        async def is_whole() -> bool:
            return sorted(await tail(runtime, part.plain, 10)) == ["first", "second", "third"]

        await eventually(is_whole, "three lines, of both streams")
        assert len(await tail(runtime, part.plain, 1)) == 1
        async with runtime.logs(part.plain, tail=0, follow=True) as following:
            await part.says(part.plain, "as it comes")
            assert await anext(following) == "as it comes"
            await part.exits(part.plain)
            assert [line async for line in following] == [], "it ends with the container"
        assert (await tail(runtime, part.plain, 1)) == ["as it comes"], "it can be read afterwards"
        with pytest.raises(RuntimeFailure, match="There is no container nobody"):
            await tail(runtime, "nobody", 1)


async def tail(runtime: DockerRuntime, name: str, count: int) -> list[str]:
    async with runtime.logs(name, tail=count) as lines:
        return [line async for line in lines]


async def heard(events: AsyncIterator[RuntimeEvent], last: str) -> list[RuntimeEvent]:
    """What is heard up to an action."""
    seen: list[RuntimeEvent] = []
    async with asyncio.timeout(20):
        while not seen or seen[-1].action != last:
            seen.append(await anext(events))
    return seen


async def test_events_tell_who_and_what(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        async with runtime.events() as events:
            await runtime.stop(part.gpu, grace=5)
            stopped = await heard(events, "stop")
            await runtime.start(part.gpu)
            started = await heard(events, "start")
            await raw(part.socket, "POST", f"/containers/{part.plain}/kill")
            killed = await heard(events, "die")
            await runtime.start(part.plain)
            await heard(events, "start")
            await part.exits(part.plain)
            ended = await heard(events, "die")
        assert [e.action for e in stopped] == ["kill", "die", "stop"]
        assert [e.action for e in started] == ["start"]
        assert [e.action for e in killed] == ["kill", "die"]
        assert ended[-1].action == "die"
        assert {(e.name, e.gpu) for e in (*stopped, *started)} == {(part.gpu, True)}
        assert {(e.name, e.gpu) for e in (*killed, *ended)} == {(part.plain, False)}
        assert {e.id for e in killed} == {(await runtime.state(part.plain)).id}
        assert abs(time.time() - started[0].at) < 30
        async with runtime.events(since=stopped[0].at - 0.001) as events:
            again = await heard(events, "stop")
        assert [(e.action, e.at) for e in again] == [(e.action, e.at) for e in stopped], "nothing is lost in between"


async def test_the_exit_code_is_in_the_event(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        before = time.time()
        await part.exits(part.plain)
        await reaches(runtime, part.plain, "exited")
        query = f'/events?since={before:.3f}&until={time.time() + 1:.3f}&filters={{"event":["die"]}}'
        event = (await raw(part.socket, "GET", query)).json()
        assert (event["Type"], event["Action"], event["status"]) == ("container", "die", "die")
        attributes: dict[str, Any] = event["Actor"]["Attributes"]
        assert (attributes["name"], attributes["exitCode"]) == (part.plain, "3")


async def test_of_two_who_create_one_name_one_is_refused(dockers: Dockers) -> None:
    """The lease of a node that has nothing but Docker: a container that is never started."""
    async with dockers.running() as part:
        image = (await raw(part.socket, "GET", f"/containers/{part.plain}/json")).json()["Config"]["Image"]
        path, body = "/containers/create?name=tierdeck-lock", {"Image": image, "Labels": {"tierdeck.owner": "a"}}
        answers = await asyncio.gather(*(raw(part.socket, "POST", path, body) for _ in range(5)))
        try:
            assert sorted(a.status_code for a in answers) == [201, 409, 409, 409, 409]
            refused = next(a for a in answers if a.status_code == 409).json()["message"]
            assert refused.startswith('Conflict. The container name "/tierdeck-lock" is already in use by container')
            shown = (await raw(part.socket, "GET", "/containers/tierdeck-lock/json")).json()
            assert (shown["State"]["Status"], shown["Config"]["Labels"]) == ("created", {"tierdeck.owner": "a"})
            async with runtime_of(part.socket) as runtime:
                assert (await runtime.state("tierdeck-lock")).state == "created"
        finally:
            assert (await raw(part.socket, "DELETE", "/containers/tierdeck-lock")).status_code == 204
        assert (await message(part.socket, "DELETE", "/containers/tierdeck-lock"))[0] == 404
        status, words = await message(part.socket, "DELETE", f"/containers/{part.plain}")
        assert status == 409, "what runs is not removed"
        assert "running" in words
        assert (await message(part.socket, "POST", path, {"Image": "no-such-image"}))[0] == 404


async def test_a_policy_can_be_changed(dockers: Dockers) -> None:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        update = {"RestartPolicy": {"Name": "no"}}
        assert (await raw(part.socket, "POST", f"/containers/{part.gpu}/update", update)).status_code == 200
        assert (await runtime.state(part.gpu)).restart_policy == "no"


async def test_a_gpu_without_its_driver_and_an_engine_that_dies(dockers: Dockers) -> None:
    async with dockers.spare() as part, runtime_of(part.socket) as runtime:
        assert (await runtime.state(part.wants)).state == "created"
        with pytest.raises(RuntimeFailure, match="could not select device driver") as caught:
            await runtime.start(part.wants)
        assert caught.value.status == 500
        assert "nvidia-container-toolkit" in caught.value.advice
        async with runtime.events() as events:
            listening = asyncio.create_task(rest(events))
            await asyncio.sleep(0)
            await part.dies()
            async with asyncio.timeout(20):
                assert await listening == [], "the stream ends, for there is nobody to tell"
        with pytest.raises(RuntimeFailure, match="refuses connections; its daemon has stopped") as caught:
            await runtime.workloads()
        assert "systemctl start docker" in caught.value.advice
        await part.returns()
        assert [w.name for w in await runtime.workloads()] == [part.wants]


async def rest(events: AsyncIterator[RuntimeEvent]) -> list[RuntimeEvent]:
    return [event async for event in events]
