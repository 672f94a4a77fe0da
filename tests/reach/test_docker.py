"""Docker against the simulator's engine, and against a double that answers oddly."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from backends.cluster.inventory import Inventory
from backends.errors import RuntimeFailure, SshError
from backends.reach.docker import DockerRuntime
from backends.reach.reaches import Reaches
from backends.reach.runtime import Runtime, RuntimeEvent
from backends.secrets import Secrets
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from tests.reach.conftest import until


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    async with demo(tmp_path / "sim", speed=100.0) as sim:
        yield sim


@pytest.fixture
async def docker(sim: SimulatedCluster) -> AsyncIterator[DockerRuntime]:
    runtime = DockerRuntime("mark", [str(sim.nodes["mark"].docker_socket)])
    yield runtime
    await runtime.close()


@pytest.fixture
async def reaches(sim: SimulatedCluster) -> AsyncIterator[Reaches]:
    inventory = Inventory.model_validate(tomllib.loads(sim.inventory))
    async with Reaches(inventory, None, Secrets()) as reaches:
        yield reaches


@pytest.fixture(params=["unix socket", "ssh"])
async def runtime(request: pytest.FixtureRequest, docker: DockerRuntime, reaches: Reaches) -> Runtime:
    return docker if request.param == "unix socket" else await reaches["mark"].runtime()


async def test_workloads(runtime: Runtime, sim: SimulatedCluster) -> None:
    found = {workload.name: workload for workload in await runtime.workloads()}
    assert sorted(found) == ["mark-i", "mark-ii", "mark-iii", "mark-iv", "mark-v"]
    one = found["mark-i"]
    assert (one.runtime, one.state, one.health, one.gpu) == ("docker", "running", "healthy", True)
    assert one.restart_policy == "unless-stopped"
    assert one.ports == (sim.endpoints["remote/mark-i"].server.port,)
    assert one.started_at is not None
    assert one.exit_code is None
    assert (await runtime.version()) == "28.5.1"


async def test_start_and_stop_are_done_once(runtime: Runtime) -> None:
    for _ in range(2):
        await runtime.stop("mark-v", grace=1)
    stopped = await runtime.state("mark-v")
    assert (stopped.state, stopped.exit_code, stopped.running) == ("exited", 0, False)
    for _ in range(2):
        await runtime.start("mark-v")
    assert (await runtime.state("mark-v")).running


async def test_missing_containers(runtime: Runtime) -> None:
    for name in ("mark-x", "", "../images", "a b", "-x", "mark-i/../mark-v"):
        assert (await runtime.state(name)).state == "missing"
    with pytest.raises(RuntimeFailure, match="There is no container mark-x on mark") as caught:
        await runtime.start("mark-x")
    assert caught.value.status == 404


async def test_a_part_of_an_id_is_no_name(runtime: Runtime) -> None:
    whole = (await runtime.state("mark-i")).id
    assert (await runtime.state(whole[:12])).state == "missing"
    assert (await runtime.state(whole)).name == "mark-i"


async def test_logs(runtime: Runtime, sim: SimulatedCluster) -> None:
    log = sim.nodes["mark"].container("mark-iii").log
    log.write("\x1b[32mgreen\x1b[0m")
    log.write("last")
    async with runtime.logs("mark-iii", tail=2) as lines:
        assert [line async for line in lines] == ["green", "last"]
    async with runtime.logs("mark-iii", tail=1, follow=True) as lines:
        assert await anext(lines) == "last"
        log.write("as it comes")
        assert await anext(lines) == "as it comes"
    with pytest.raises(RuntimeFailure, match="no container nobody"):
        async with runtime.logs("nobody"):
            pass


async def test_events(runtime: Runtime, sim: SimulatedCluster) -> None:
    async with runtime.events() as events:
        await runtime.stop("mark-v")
        seen = [await anext(events)]
        while seen[-1].action != "die":
            seen.append(await anext(events))
    assert {event.name for event in seen} == {"mark-v"}
    assert all(event.gpu for event in seen)
    since = seen[-1].at
    await runtime.start("mark-v")
    async with runtime.events(since=since - 0.001) as events:
        replayed = [await anext(events)]
        while replayed[-1].action != "start":
            replayed.append(await anext(events))
    assert since in [event.at for event in replayed]


async def test_events_end_with_the_connection(runtime: Runtime, sim: SimulatedCluster) -> None:
    engine = sim.nodes["mark"].docker
    assert engine is not None
    async with runtime.events() as events:
        listening = asyncio.create_task(_rest(events))
        await until(lambda: engine.requests["GET /events"] > 0)
        await engine.server.close()
        assert await listening == []
    await engine.server.open()
    assert len(await runtime.workloads()) == 5


async def _rest(events: AsyncIterator[RuntimeEvent]) -> list[RuntimeEvent]:
    return [event async for event in events]


async def test_a_poll_of_what_did_not_change_is_one_request(sim: SimulatedCluster) -> None:
    """Story time runs a hundredfold, and so soon nothing is "up for seconds" any more."""
    engine = sim.nodes["mark"].docker
    assert engine is not None
    now = 0.0
    runtime = DockerRuntime("mark", [str(sim.nodes["mark"].docker_socket)], clock=lambda: now)
    for container in engine.containers.values():
        container.started -= 3600
    first = await runtime.workloads()
    before = engine.requests["GET /containers/{id}/json"]
    for _ in range(5):
        assert await runtime.workloads() == first
    assert engine.requests["GET /containers/{id}/json"] == before
    await runtime.stop("mark-v")
    before = engine.requests["GET /containers/{id}/json"]
    changed = await runtime.workloads()
    assert engine.requests["GET /containers/{id}/json"] == before + 1
    assert [w.state for w in changed if w.name == "mark-v"] == ["exited"]
    now = 3600.0
    before = engine.requests["GET /containers/{id}/json"]
    await runtime.workloads()
    assert engine.requests["GET /containers/{id}/json"] == before + 5
    await runtime.close()


async def test_a_container_up_for_seconds_is_inspected_again_only_where_it_may_have_restarted(
    sim: SimulatedCluster,
) -> None:
    engine = sim.nodes["mark"].docker
    assert engine is not None
    now = 1000.0
    runtime = DockerRuntime("mark", [str(sim.nodes["mark"].docker_socket)], clock=lambda: now)
    listed: dict[str, str] = {}

    async def inspected(after: float, **up: str) -> int:
        nonlocal now
        now += after
        listed.update(up)
        before = engine.requests["GET /containers/{id}/json"]
        for name, status in listed.items():
            id = next(c.id for c in engine.containers.values() if c.spec.name == name)
            await runtime._look({"Id": id, "State": "running", "Status": status})
        return engine.requests["GET /containers/{id}/json"] - before

    assert await inspected(0, **{"mark-i": "Up 10 seconds (healthy)"}) == 1
    assert await inspected(2, **{"mark-i": "Up 12 seconds (healthy)"}) == 0
    assert await inspected(2, **{"mark-i": "Up 13 seconds (healthy)"}) == 0
    assert await inspected(2, **{"mark-i": "Up 7 seconds (healthy)"}) == 1
    assert await inspected(2, **{"mark-i": "Up 9 seconds (healthy)"}) == 0
    assert await inspected(2, **{"mark-i": "Up Less than a second (healthy)"}) == 1
    assert await inspected(2, **{"mark-i": "Up 2 seconds (healthy)"}) == 1
    assert await inspected(50, **{"mark-i": "Up 52 seconds (healthy)"}) == 0
    assert await inspected(9, **{"mark-i": "Up About a minute (healthy)"}) == 0
    assert await inspected(2, **{"mark-i": "Up 8 seconds (healthy)"}) == 1
    assert await inspected(2, **{"mark-i": "Up 10 seconds (unhealthy)"}) == 1
    await runtime.close()


async def test_gpu_without_a_driver(sim: SimulatedCluster, runtime: Runtime) -> None:
    await runtime.stop("mark-v")
    sim.nodes["mark"].host.vendor = "none"
    with pytest.raises(RuntimeFailure, match="could not select device driver") as caught:
        await runtime.start("mark-v")
    assert "nvidia-container-toolkit on mark" in caught.value.advice


async def test_socket_that_is_missing_dead_or_mute(tmp_path: Path) -> None:
    missing = DockerRuntime("mark", [str(tmp_path / "none.sock")])
    with pytest.raises(RuntimeFailure, match=r"there is no socket .*none\.sock") as caught:
        await missing.workloads()
    assert "docker = false" in caught.value.advice
    folder = Path(tempfile.mkdtemp())
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "s"))
        refusing = DockerRuntime("mark", [str(folder / "s")])
        with pytest.raises(RuntimeFailure, match="refuses connections"):
            await refusing.version()
        dead.listen()
        mute = DockerRuntime("mark", [str(folder / "s")], limit=0.2)
        with pytest.raises(RuntimeFailure, match=r"did not answer within 0\.2 s"):
            await mute.version()
    for runtime in (missing, refusing, mute):
        await runtime.close()


async def test_a_socket_that_appears_later_is_found(sim: SimulatedCluster, tmp_path: Path) -> None:
    runtime = DockerRuntime("mark", [str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(RuntimeFailure):
        await runtime.version()
    (tmp_path / "b").symlink_to(str(sim.nodes["mark"].docker_socket))
    assert await runtime.version() == "28.5.1"
    await runtime.close()


async def test_what_is_behind_a_broken_bridge_is_told() -> None:
    runtime = DockerRuntime("mark", ["/nonexistent/s"], why=lambda: SshError("mark: 10.0.10.20:22 refuses SSH."))
    with pytest.raises(SshError, match="refuses SSH"):
        await runtime.workloads()
    await runtime.close()


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def odd(answer: Answer) -> AsyncIterator[DockerRuntime]:
    """A Docker that answers everything but its version in one odd way."""

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.41", "Version": "20.10.24"})

    application = web.Application()
    application.router.add_get("/version", version)
    application.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    with tempfile.TemporaryDirectory() as folder:
        await web.UnixSite(runner, f"{folder}/s").start()
        runtime = DockerRuntime("mark", [f"{folder}/s"], limit=2)
        try:
            yield runtime
        finally:
            await runtime.close()
            await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "kind", "body", "says"),
    [
        (200, "text/html", "<html>", "Docker on mark"),
        (200, "application/json", "{not json", "Docker on mark"),
        (
            500,
            "application/json",
            '{"message":"driver failed: port is already allocated"}',
            "port is already allocated",
        ),
        (500, "application/json", '{"oops":1}', "Docker on mark"),
        (503, "text/plain", "try later\x1b[2J", "try later"),
        (500, "application/json", '{"message":"write /x: no space left on device"}', "no space left"),
    ],
)
async def test_odd_answers_are_failures_in_dockers_words(status: int, kind: str, body: str, says: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, content_type=kind, text=body)

    async with odd(answer) as docker:
        with pytest.raises(RuntimeFailure, match=says) as caught:
            await docker.workloads()
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("body", ["{}", "[]", "null", '["text", 3, null]'])
async def test_lists_that_are_none_hold_no_containers(body: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(content_type="application/json", text=body)

    async with odd(answer) as docker:
        assert await docker.workloads() == ()


async def test_output_of_a_terminal_and_broken_frames() -> None:
    inspected = {"Id": "c" * 64, "Name": "/box", "State": {"Status": "running"}, "Config": {"Tty": True}}
    output = b"raw \xff line\r\nsecond"

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/logs"):
            return web.Response(body=output)
        return web.json_response(inspected)

    async with odd(answer) as docker:
        async with docker.logs("box") as lines:
            assert [line async for line in lines] == ["raw \ufffd line", "second"]
        inspected["Config"] = {"Tty": False}
        output = (
            b"\1\0\0\0\0\0\0\4one\n\2\0\0\0\0\0\0\3tw\xc3\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\2\xa9\n\1\0\0\0\0\0\0\x63cut"
        )
        async with docker.logs("box") as lines:
            assert [line async for line in lines] == ["one", "tw\xe9", "cut"]


async def test_leaving_a_stream_hangs_up() -> None:
    open_now: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        open_now.append(request.path)
        try:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.Event().wait()
        finally:
            open_now.remove(request.path)
        return response

    async with odd(answer) as docker:
        async with docker.events():
            assert open_now == ["/v1.41/events"]
        await until(lambda: open_now == [])


async def test_events_that_are_none_are_passed_over() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/events"):
            good = (
                '{"Type":"container","Action":"oom","Actor":{"ID":"x","Attributes":{"name":"a"}},"timeNano":1500000000}'
            )
            return web.Response(text=f'{{broken\n[]\n{{"Type":"image","Action":"pull"}}\n{good}\n')
        return web.json_response({"message": "No such container"}, status=404)

    async with odd(answer) as docker, docker.events() as events:
        assert await _rest(events) == [RuntimeEvent(at=1.5, name="a", action="oom", gpu=False, id="x")]
