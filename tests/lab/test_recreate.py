"""A container made anew by a real Docker is the same in all its settings, and finds its volumes again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tomli_w

from backends.cluster.faults import Diagnosis, Fault
from backends.cluster.files import load
from backends.procedures.commands import Procedures
from backends.procedures.recovery import plan_recovery
from backends.world import survey
from tests.lab.engine import TINY, DockerEngine
from tests.lab.process import LabError
from tests.procedures.test_process import ROOT

SLEEP = ("/bin/sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done")
OPTIONS = (
    "--gpus", "all", "--restart", "unless-stopped", "-v", "td-named:/named", "-v", "/cache", "-p", "127.0.0.1::8000",
    "--env", "COLOUR=blue", "--label", "com.docker.compose.service=twin", "--memory", "64m", "--shm-size", "32m",
    "--network", "td-one", "--network-alias", "llama", "--health-cmd", "true", "--health-interval", "1s", "--init",
    "--ulimit", "nofile=1000:2000", "--cap-add", "NET_ADMIN", "--tmpfs", "/scratch", "--stop-timeout", "1",
)  # fmt: skip
FILLED_IN = ("GraphDriver", "Id", "Created", "State", "Mounts", "NetworkSettings", "LogPath", "RestartCount")


@pytest.fixture
def engine(lab_docker: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerEngine]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))  # where its lease lies
    lab_docker.image(TINY)
    for network in ("td-one", "td-two"):
        lab_docker.docker("network", "create", network)
    lab_docker.docker("run", "-d", "--name", "twin", *OPTIONS, TINY, *SLEEP)
    lab_docker.docker("network", "connect", "--alias", "second", "td-two", "twin")
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield lab_docker
    for words in (("rm", "-fv", "twin"), ("rm", "-fv", "twin.before"), ("network", "rm", "td-one", "td-two")):
        with suppress(LabError):
            lab_docker.docker(*words)


def inspected(engine: DockerEngine, name: str = "twin") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", name))[0]
    return found


def settings(details: dict[str, Any]) -> dict[str, Any]:
    """What somebody chose, without what Docker fills in."""
    config = {k: v for k, v in details["Config"].items() if k != "Hostname"}
    host = {k: v for k, v in details["HostConfig"].items() if k != "Binds"}
    paths = {k: v for k, v in details.items() if k not in (*FILLED_IN, "Config", "HostConfig") and "Path" not in k}
    networks = details["NetworkSettings"]["Networks"]
    aliases = {n: [a for a in t["Aliases"] if a not in details["Id"]] for n, t in networks.items()}
    mounts = sorted((m["Type"], m.get("Name", ""), m["Destination"]) for m in details["Mounts"])
    return {**paths, "config": config, "host": host, "aliases": aliases, "mounts": mounts}


async def recover(engine: DockerEngine, folder: Path) -> list[dict[str, Any]]:
    mark = {"name": "mark", "address": "127.0.0.1", "docker": {"socket": str(engine.socket)}}
    mark |= {"queue": {"order": ["twin"], "gap": "100ms", "ready_timeout": "20s"}}
    path = folder / "cluster.toml"
    path.write_text(tomli_w.dumps({"version": 1, "name": "lab", "nodes": [mark]}))
    loaded = load(path)
    snapshot = await survey(loaded, "mark", folder / "state")
    plan = plan_recovery(loaded.inventory, snapshot, Diagnosis("mark", Fault.GPU_LOST, ("twin",)))
    procedures = Procedures(folder / "state", path)
    procedure = await procedures.start(plan, attended=False)
    async with asyncio.timeout(90):
        return [event.to_json() async for event in procedures.attach(procedure)]


async def test_the_same_settings_volumes_and_networks(engine: DockerEngine, tmp_path: Path) -> None:
    engine.docker("exec", "twin", "sh", "-c", "echo kept > /named/file; echo kept > /cache/file")
    before = inspected(engine)
    events = await recover(engine, tmp_path)
    assert events[-1]["outcome"] == "done", events[-3:]
    after = inspected(engine)
    assert after["Id"] != before["Id"]
    assert settings(after) == settings(before)
    assert engine.docker("exec", "twin", "sh", "-c", "cat /named/file /cache/file").split() == ["kept", "kept"]
    assert engine.docker("ps", "-a", "--format", "{{.Names}}").split() == ["twin"], events[-4:]


async def test_what_it_wrote_elsewhere_keeps_the_old_one(engine: DockerEngine, tmp_path: Path) -> None:
    engine.docker("exec", "twin", "sh", "-c", "mkdir -p /app; echo x > /app/model.gguf")
    events = await recover(engine, tmp_path)
    assert events[-1]["outcome"] == "done", events[-3:]
    assert any("twin.before is kept" in str(event["detail"]) for event in events)
    assert inspected(engine, "twin.before")["HostConfig"]["RestartPolicy"]["Name"] == "no"
