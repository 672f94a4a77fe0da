"""A deployment on a real Docker: from a file to an answer by one command, and back to what was, whatever fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from socket import create_server
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tomli_w

from backends.cluster.deploying import Spec
from backends.cluster.files import load
from backends.errors import ProcedureError
from backends.procedures import copying
from backends.procedures.events import StepEvent
from backends.procedures.plan import Plan
from backends.reach.volume_helper import VolumeHelper
from backends.world import World
from tests.deploy.carrying import carry_out, failing, take_back, words
from tests.lab.cache import require
from tests.lab.engine import LLAMACPP, TINY, DockerEngine
from tests.lab.models import sparse_gguf, tiny_gguf
from tests.lab.process import free_port
from tests.lab.servers import OpenSsh
from tests.procedures.test_process import ROOT

STEPS = 8
LAYERS = 2


@dataclass
class Lab:
    """An engine, its cluster.toml as it is here and as it is over SSH, and a tiny model."""

    engine: DockerEngine
    ssh: OpenSsh
    folder: Path
    model: Path

    def cluster(self, way: str = "here") -> Path:
        return self.folder / way / "cluster.toml"

    def spec(self, **fields: Any) -> Spec:
        told = {
            "version": 1, "name": "coder", "node": "mark", "preset": "llama.cpp", "image": LLAMACPP, "gpus": "all",
            "port": free_port(), "model": str(self.model), "context": 512, "tasks": ["code"],
        }  # fmt: skip
        return Spec.model_validate(told | fields)

    async def plan(self, spec: Spec, way: str = "here") -> Plan:
        here = "mark" if way == "here" else None
        async with World(load(self.cluster(way)), here, self.folder / "state") as world:
            return await world.plan_deploy(spec)

    async def carry_out(self, plan: Plan, way: str = "here", **how: Any) -> list[StepEvent]:
        return await carry_out(self.cluster(way), plan, self.folder / "state", **how)

    def state(self) -> dict[str, Any]:
        """Byte for byte: `docker ps -a`, images, volumes with what is in them, and the folder of cluster.toml."""
        docker = self.engine.docker
        found: dict[str, Any] = {
            "ps": docker("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.State}} {{.Ports}}"),
            "images": sorted(docker("images", "--no-trunc", "-q").split()),  # those of one second come in any order
            "volumes": {name: self.inside(name) for name in docker("volume", "ls", "-q").split()},
        }
        files = [p for way in ("here", "ssh") for p in (self.folder / way).rglob("*")]
        return found | {"config": {str(p): p.read_bytes() if p.is_file() else b"" for p in files}}

    def inside(self, volume: str) -> dict[str, str]:
        """The files of a volume and their SHA-256."""
        folder = Path(self.engine.docker("volume", "inspect", "--format", "{{.Mountpoint}}", volume))
        return {str(p.relative_to(folder)): _sha256(p) for p in folder.rglob("*") if p.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    require("docker", "sshd", "llamacpp")
    folder = tmp_path_factory.mktemp("deploy")
    with ExitStack() as stack:
        engine = stack.enter_context(DockerEngine(folder / "docker"))
        ssh = stack.enter_context(OpenSsh(folder / "sshd"))
        engine.image(LLAMACPP)
        engine.image(TINY)
        login = {"user": ssh.user, "port": ssh.port, "key": str(ssh.key), "known_hosts": str(ssh.known_hosts)}
        (folder / "home").mkdir()
        for way in ("here", "ssh"):
            (folder / way).mkdir()
            node: dict[str, Any] = {"name": "mark", "address": "127.0.0.1", "docker": {"socket": str(engine.socket)}}
            node |= {"queue": {"gap": "0s", "ready_timeout": "60s"}} | ({"ssh": login} if way == "ssh" else {})
            told = {"version": 1, "name": "lab", "nodes": [node], "tiers": [{"name": "REMOTE"}]}
            (folder / way / "cluster.toml").write_text(tomli_w.dumps(told))
        yield Lab(engine, ssh, folder, tiny_gguf(folder / "tiny.gguf"))


@pytest.fixture(autouse=True)
def _clean(lab: Lab) -> Iterator[None]:
    before = lab.state()
    yield
    if names := lab.engine.docker("ps", "-aq").split():
        lab.engine.docker("rm", "-f", *names)
    if volumes := lab.engine.docker("volume", "ls", "-q").split():
        lab.engine.docker("volume", "rm", *volumes)
    for way in ("here", "ssh"):
        for path in lab.folder.glob(f"{way}/cluster.d/*"):
            path.unlink()
        if (lab.folder / way / "cluster.d").exists():
            (lab.folder / way / "cluster.d").rmdir()
    assert lab.state() == before


def tierdeck(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory(prefix="td") as short:
        env = {
            **os.environ, "PYTHONPATH": str(ROOT), "TIERDECK_CLUSTER": str(lab.cluster()), "XDG_RUNTIME_DIR": short,
            "TIERDECK_STATE": str(lab.folder / "state"), "CODER_KEY": "sk-lab-secret",
            "HOME": str(lab.folder / "home"),
        }  # fmt: skip
        argv = [sys.executable, "-m", "tui.cli", *arguments]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_one_command_from_a_file_of_real_size_to_an_answer_and_back(lab: Lab, tmp_path: Path) -> None:
    model = sparse_gguf(tmp_path / "large.gguf", layers=LAYERS)
    before = lab.state()
    spec = lab.spec(model=str(model), api_key="env:CODER_KEY").model_dump(exclude_none=True, exclude_defaults=True)
    path = tmp_path / "coder.toml"
    path.write_text(tomli_w.dumps({**spec, "version": 1, "tasks": ["code"], "gpus": "all"}))
    shown = tierdeck(lab, "deploy", str(path), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "docker create --name coder" in shown.stdout
    assert lab.state() == before, "a dry run changes nothing"
    done = tierdeck(lab, "deploy", str(path), "--yes", "--json")
    assert done.stdout, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, events[-1]["outcome"]) == (0, "done"), (done.stdout[-3000:], done.stderr[-3000:])
    assert lab.inside("coder-models")["large.gguf"] == _sha256(model)
    assert lab.engine.docker("ps", "--format", "{{.Names}}") == "coder"
    status = json.loads(tierdeck(lab, "status", "--json").stdout)
    assert '"mark/coder"' in json.dumps(status)
    routed = tierdeck(lab, "route", "write a python function", "--task", "code", "--send")
    assert routed.returncode == 0, routed.stderr
    inspected = lab.engine.docker("inspect", "coder")
    assert "sk-lab-secret" not in inspected + done.stdout + done.stderr + shown.stdout
    back = tierdeck(lab, "procedures", "rollback", events[0]["procedure"], "--yes")
    assert back.returncode == 0, back.stdout + back.stderr
    assert lab.state() == before


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(STEPS))
async def test_a_failure_at_each_step_is_taken_back_byte_for_byte(lab: Lab, at: int, late: bool) -> None:
    before = lab.state()
    plan = await lab.plan(lab.spec())
    assert len(plan.steps) == STEPS
    events = await lab.carry_out(plan, kinds=failing(at, plan, late=late), ask=take_back)
    assert [e.step for e in events if e.event == "step_failed"] == [at], words(events)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert lab.state() == before


async def test_a_link_that_is_cut_in_mid_copy_is_gone_on_with(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PART", 8 << 20)
    model = tmp_path / "some.gguf"
    model.write_bytes(os.urandom(1 << 20) * 96)
    plan = await lab.plan(lab.spec(model=str(model)), "ssh")
    plan = replace(plan, steps=plan.steps[1:3])
    sent = VolumeHelper.append
    calls, back = 0, list[asyncio.Task[None]]()

    async def cuts(self: Any, work: str, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            lab.ssh.close()
            back.append(asyncio.create_task(asyncio.to_thread(_return, lab.ssh)))
        await sent(self, work, data)

    monkeypatch.setattr(VolumeHelper, "append", cuts)
    events = await lab.carry_out(plan, "ssh")
    await back[0]
    assert events[-1].outcome == "done", words(events)
    assert "the line was cut" in words(events)
    assert lab.inside("coder-models") == {
        "some.gguf": _sha256(model), f".tierdeck-{plan.steps[1].arguments['deployment']}": _listed("some.gguf"),
    }  # fmt: skip


def _return(ssh: OpenSsh) -> None:
    time.sleep(3.0)
    ssh.start()
    ssh.ready()


def _listed(name: str) -> str:
    return hashlib.sha256(f"{name}\n".encode()).hexdigest()


async def test_a_disk_that_fills_up_in_mid_copy(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PART", 4 << 20)
    options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=16m"]
    lab.engine.docker("volume", "create", *options, "small-vol")
    model = tmp_path / "some.gguf"
    model.write_bytes(os.urandom(32 << 20))
    before = lab.state()
    plan = await lab.plan(lab.spec(model=str(model), volume="small-vol"))
    events = await lab.carry_out(plan, ask=take_back)
    assert "some.gguf needs 33.6 MB more, and mark has 16.8 MB free there" in words(events)
    assert lab.state() == before

    async def unlooked(*_: object) -> None:
        return

    monkeypatch.setattr(copying.CopyModel, "_refuse_full", unlooked)
    events = await lab.carry_out(plan, ask=take_back)
    failed = next(e.text for e in events if e.event == "step_failed")
    assert "no space left on device" in failed.lower()
    assert "Free disk space on mark: docker system df." in failed
    assert events[-1].text == "taken back: all is as it was before"
    assert lab.state() == before


async def test_a_wrong_checksum(lab: Lab) -> None:
    before = lab.state()
    events = await lab.carry_out(await lab.plan(lab.spec(sha256="0" * 64)), ask=take_back)
    assert f"arrived with SHA-256 {_sha256(lab.model)}, expected 000" in words(events)
    assert lab.state() == before


async def test_a_volume_that_is_in_use_by_then_is_left_alone_and_said_so(lab: Lab) -> None:
    plan = await lab.plan(lab.spec())
    assert (await lab.carry_out(plan))[-1].outcome == "done"
    lab.engine.docker("create", "--name", "other", "-v", "coder-models:/m", TINY)
    events = await lab.carry_out(plan, back=True)
    assert "not everything could be taken back: The volume coder-models is used by another container" in words(events)
    assert lab.engine.docker("ps", "-a", "--format", "{{.Names}}") == "other"
    lab.engine.docker("rm", "other")
    assert (await lab.carry_out(plan, back=True))[-1].text == "taken back: all is as it was before"


async def test_a_shared_volume_keeps_what_was_in_it(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"other")
    lab.engine.put(other, "other.gguf")
    before = lab.state()
    plan = await lab.plan(lab.spec(volume="models-vol"))
    assert (await lab.carry_out(plan))[-1].outcome == "done"
    assert {"other.gguf", "tiny.gguf"} <= set(lab.inside("models-vol"))
    assert (await lab.carry_out(plan, back=True))[-1].text == "taken back: all is as it was before"
    assert lab.state() == before


async def test_names_and_ports_that_are_taken(lab: Lab) -> None:
    lab.engine.docker("create", "--name", "coder", TINY)
    with pytest.raises(ProcedureError, match=r"mark has a container coder already \(tierdeck-lab/tiny, created\)"):
        await lab.plan(lab.spec())
    with closing(create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with pytest.raises(ProcedureError, match=f"Something unknown listens at 127.0.0.1:{port} already"):
            await lab.plan(lab.spec(name="other", port=port))
        plan = await lab.plan(lab.spec(name="other"))
        steps = [replace(s, arguments=_at_port(s.arguments, port)) for s in plan.steps]
        events = await lab.carry_out(replace(plan, steps=tuple(steps)), ask=take_back)
    failed = next(e.text for e in events if e.event == "step_failed")
    assert "address already in use" in failed
    assert events[-1].text == "taken back: all is as it was before"
    assert lab.engine.docker("ps", "-a", "--format", "{{.Names}}") == "coder"


def _at_port(arguments: Any, port: int) -> Any:
    """The step's arguments with another published port: it was taken after the plan was made."""
    told = json.loads(json.dumps(dict(arguments)))
    for bindings in ((told.get("body") or {}).get("HostConfig") or {}).get("PortBindings", {}).values():
        bindings[0]["HostPort"] = str(port)
    return told


async def test_an_image_that_cannot_be_had(lab: Lab) -> None:
    before = lab.state()
    plan = await lab.plan(lab.spec(image="127.0.0.1:1/nobody/has:this"))
    events = await lab.carry_out(plan, ask=take_back)
    failed = next(e.text for e in events if e.event == "step_failed")
    assert "127.0.0.1:1" in failed
    assert events[-1].text == "taken back: all is as it was before"
    assert lab.state() == before


async def test_an_image_without_a_shell_is_told_and_a_helper_helps(lab: Lab) -> None:
    import io
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    lab.engine.docker("import", "-", "tierdeck-lab/bare", given=packed.getvalue())
    try:
        before = lab.state()
        plan = await lab.plan(lab.spec(image="tierdeck-lab/bare", gpus="none"))
        events = await lab.carry_out(plan, ask=take_back)
        assert 'Name an image of the node that has one: helper = "busybox:1.36"' in words(events)
        assert lab.state() == before
        plan = await lab.plan(lab.spec(image="tierdeck-lab/bare", gpus="none", helper=TINY))
        events = await lab.carry_out(replace(plan, steps=plan.steps[:2]))
        assert events[-1].outcome == "done", words(events)
    finally:
        for volume in lab.engine.docker("volume", "ls", "-q").split():
            lab.engine.docker("volume", "rm", volume)
        lab.engine.docker("rmi", "tierdeck-lab/bare")
