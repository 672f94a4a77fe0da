"""Trouble in the words of a real Docker, named by the queue with its cure; nothing is started behind it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tomli_w

from backends.cluster.files import load
from backends.procedures.commands import Procedures
from backends.procedures.startup import plan_queue
from backends.world import survey
from tests.lab.cache import require
from tests.lab.engine import TINY, DockerEngine
from tests.lab.process import free_port
from tests.procedures.test_process import ROOT, until

IDLE = ("/bin/sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done")
HEALTHY = ("--gpus", "all", "--health-cmd", "true", "--health-interval", "1s")


class Host:
    """An engine, and a queue over the containers that a test has made."""

    def __init__(self, engine: DockerEngine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        engine.image(TINY)

    def make(self, name: str, *options: str, run: tuple[str, ...] = ()) -> None:
        self.engine.docker("create", "--name", name, *options, TINY, *run)

    def procedures(self) -> Procedures:
        return Procedures(self.folder / "state", self.folder / "cluster.toml")

    async def start(self, *names: str, gap: str = "100ms", patience: str = "20s") -> str:
        mark = {
            "name": "mark",
            "address": "127.0.0.1",
            "docker": {"socket": str(self.engine.socket)},
            "queue": {"order": list(names), "gap": gap, "ready_timeout": patience},
        }
        path = self.folder / "cluster.toml"
        path.write_text(tomli_w.dumps({"version": 1, "name": "lab", "nodes": [mark]}))
        loaded = load(path)
        plan = plan_queue(loaded.inventory, await survey(loaded, "mark", self.folder / "state"), "mark")
        return await self.procedures().start(plan, attended=False)

    async def failure(self, procedure: str) -> str:
        async with asyncio.timeout(90):
            events: list[dict[str, Any]] = [e.to_json() async for e in self.procedures().attach(procedure)]
        assert events[-1]["outcome"] == "halted", events[-1]
        return str(next(e["detail"]["text"] for e in events if e["event"] == "step_failed"))

    def running(self) -> list[str]:
        return self.engine.docker("ps", "--format", "{{.Names}}").split()


@pytest.fixture
def host(
    lab_docker: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Host]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        made = Host(lab_docker, tmp_path)
        try:
            yield made
        finally:
            known = lab_docker.docker("ps", "-aq").split()
            lab_docker.docker("rm", "-f", "-v", *known) if known else None


async def test_exited(host: Host) -> None:
    host.make("aa", run=("/bin/sh", "-c", "echo bad flag --nope; exit 3"))
    host.make("bb")
    found = await host.failure(await host.start("aa", "bb"))
    assert re.search(r'aa exited with code 3\. Its last words: "bad flag --nope" Read its log', found), found
    assert host.running() == []


async def test_out_of_memory(host: Host) -> None:
    limits = ("-m", "16m", "--memory-swap", "16m", "--health-cmd", "true", "--health-interval", "20s")
    host.make("aa", *limits, run=("/bin/sh", "-c", "sleep 1; exec tail /dev/zero"))
    found = await host.failure(await host.start("aa"))
    assert "code 137, out of memory" in found, found
    assert "Give it more memory" in found


async def test_a_port_that_another_container_has(host: Host) -> None:
    port = str(free_port())
    host.make("first", "-p", f"{port}:80", run=IDLE)
    host.make("second", "-p", f"{port}:80", run=IDLE)
    found = await host.failure(await host.start("first", "second"))
    assert f"second was not started: its port {port} is taken by first" in found, found
    assert "docker stop first" in found


async def test_a_port_that_another_program_has(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        host.make("aa", "-p", f"{port}:80", run=IDLE)
        found = await host.failure(await host.start("aa"))
    assert "aa was not started: its port is taken" in found, found
    assert "ss -ltnp" in found


@pytest.mark.parametrize("kind", ["bind", "volume"])
async def test_a_volume_that_is_missing(host: Host, kind: str, tmp_path: Path) -> None:
    place = tmp_path / "models"
    place.mkdir()
    if kind == "bind":
        host.make("aa", "--mount", f"type=bind,src={place},dst=/models", run=IDLE)
    else:
        options = ("-o", "type=none", "-o", "o=bind", "-o", f"device={place}")
        host.engine.docker("volume", "create", *options, f"gone-{tmp_path.name}")
        host.make("aa", "-v", f"gone-{tmp_path.name}:/models", run=IDLE)
    place.rmdir()
    found = await host.failure(await host.start("aa"))
    assert "aa was not started: a volume of it is missing" in found, found
    assert "docker inspect" in found


async def test_no_driver_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("docker")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    with DockerEngine(tmp_path / "docker", gpus=False) as engine, TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        host = Host(engine, tmp_path)
        host.make("aa", "--gpus", "all", run=IDLE)
        found = await host.failure(await host.start("aa"))
    assert "aa was not started: Docker has no driver for GPUs" in found, found
    assert "nvidia-ctk runtime configure" in found


async def test_unhealthy(host: Host) -> None:
    options = ("--gpus", "all", "--health-cmd", "exit 1", "--health-interval", "500ms", "--health-retries", "1")
    host.make("aa", *options, run=IDLE)
    host.make("bb", "--gpus", "all", run=IDLE)
    found = await host.failure(await host.start("aa", "bb", patience="4s"))
    assert "aa is unhealthy: it runs, its health check fails" in found, found
    assert host.running() == ["aa"]


async def test_silent_for_ever_and_nothing_is_started_behind_it(host: Host) -> None:
    options = ("--gpus", "all", "--health-cmd", "sleep 60", "--health-interval", "1s", "--health-start-period", "60s")
    host.make("aa", *options, run=IDLE)
    host.make("bb", "--gpus", "all", run=IDLE)
    found = await host.failure(await host.start("aa", "bb", patience="3s"))
    assert re.search(r"aa hangs: running, silent for 3 s, its VRAM not readable; most likely in CUDA", found), found
    assert host.running() == ["aa"]
    again = await host.failure(await host.start("bb", patience="3s"))
    assert "aa runs, is not ready" in again, again
    assert "bb is not started behind it" in again
    assert host.running() == ["aa"]


async def test_what_answers_and_then_dies(host: Host) -> None:
    host.make("aa", *HEALTHY, run=("/bin/sh", "-c", "sleep 3; echo no more; exit 5"))
    host.make("bb", *HEALTHY, run=IDLE)
    found = await host.failure(await host.start("aa", "bb", gap="8s"))
    assert 'aa exited with code 5. Its last words: "no more"' in found, found
    assert host.running() == []


async def test_what_flaps(host: Host) -> None:
    options = ("--gpus", "all", "--restart", "always", "--health-cmd", "false", "--health-interval", "60s")
    host.make("aa", *options, run=("/bin/sh", "-c", "echo segfault; exit 139"))
    found = await host.failure(await host.start("aa"))
    assert re.search(r"aa (keeps restarting|exited)", found), found
    assert "segfault" in found


@pytest.mark.parametrize("how", ["removed", "renamed"])
async def test_what_goes_in_mid_queue(host: Host, how: str) -> None:
    host.make("aa", *HEALTHY, run=IDLE)
    host.make("bb", *HEALTHY, run=IDLE)
    procedure = await host.start("aa", "bb", gap="3s")
    await until(lambda: host.running() == ["aa"], "the first to start")
    if how == "removed":
        host.engine.docker("rm", "bb")
    else:
        host.engine.docker("rename", "bb", "cc")
    found = await host.failure(procedure)
    assert "bb is not there any more: removed or renamed." in found, found
    assert host.running() == ["aa"]
