"""A container that lost its GPU is made anew: the same settings, the old one kept until the new one is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from backends.cluster.faults import Diagnosis, Fault
from backends.cluster.files import load
from backends.cluster.reading import Device
from backends.errors import RuntimeFailure
from backends.procedures.commands import Procedures
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.plan import Danger, Plan, Step
from backends.procedures.recovery import plan_recovery
from backends.procedures.recreate import recreate_step
from backends.procedures.runner import Control, run
from backends.reach import docker_twin
from backends.reach.runtime import Runtime
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import SimContainer, Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.world import survey
from tests.procedures.host import Box, Host, HostRuntime
from tests.procedures.test_process import ROOT
from tests.procedures.test_recovery import Kept, inventory, story
from tests.procedures.virtual import EPOCH, VirtualClock, virtually


@dataclass
class Twins(HostRuntime):
    """A host whose containers can be made anew; `wrote` outside volumes, `why` not, or a create that `fails`."""

    wrote: tuple[str, ...] = ()
    why: str = ""
    fails: str = ""
    hangs: bool = False

    async def devices(self) -> tuple[Device, ...]:
        return ()

    async def hindrance(self, name: str) -> str:
        return self.why

    async def create_twin(self, old: str, name: str) -> None:
        if self.fails:
            raise RuntimeFailure(f"Docker on mark: {self.fails}", status=500)
        box = self.host.boxes[old]
        self.host.boxes[name] = Box(name, policy=box.policy, hangs=self.hangs)

    async def rename(self, name: str, new: str) -> None:
        box = self.host.boxes.pop(name)
        assert box.state != "running"
        box.name = new
        self.host.boxes[new] = box

    async def remove(self, name: str) -> None:
        assert self.host.boxes.pop(name).state != "running"

    async def written(self, name: str) -> list[str]:
        return list(self.wrote)

    async def restart_policy(self, name: str) -> str:
        return self.host.boxes[name].policy

    async def update_restart(self, name: str, policy: str) -> None:
        self.host.boxes[name].policy = policy


def recreated(twins: Twins, *, begun: bool = True) -> tuple[list[StepEvent], Plan, dict[str, Box]]:
    """Container a, which ran since EPOCH and has lost its GPU, made anew."""
    inv = inventory("a")

    async def runtime(node: str, kind: str) -> Runtime:
        return twins

    async def go() -> tuple[list[StepEvent], Plan, dict[str, Box]]:
        if begun:
            twins.host.begin("a")
            await asyncio.sleep(10)
        since = twins.host.boxes["a"].started if begun else EPOCH
        told: dict[str, Any] = {
            "node": "mark",
            "name": "a",
            "runtime": "docker",
            "gpu": True,
            "restart": True,
            "since": since,
        }
        step = recreate_step(Step("start_container", "restart a", {**told, "gap": 0.0, "patience": 20.0}, 600.0))
        plan = Plan("recovery", "mark", "Recover mark", (step,), targets=("a",))
        context = replace(twins.host.context(inv), runtime=runtime)
        events = run(
            plan, KINDS, context, procedure="p", journal=Kept(), ask=None, control=Control(), clock=VirtualClock()
        )
        found = [event async for event in events]
        boxes = {name: replace(box) for name, box in twins.host.boxes.items()}
        twins.host.close()
        return found, plan, boxes

    return virtually(go())


def test_made_anew_and_the_old_one_removed_once_the_new_one_is_ready() -> None:
    events, plan, boxes = recreated(Twins(Host(Box("a", policy="always"))))
    assert story(events, plan) == ["done recreate_container", "finished done"]
    assert {name: (box.phase, box.policy) for name, box in boxes.items()} == {"a": ("ready", "always")}
    assert events[-2].text.endswith("; made anew")


def test_what_it_wrote_outside_its_volumes_keeps_the_old_one() -> None:
    events, _, boxes = recreated(Twins(Host(Box("a", policy="always")), wrote=("/app/model.gguf", "/app/x")))
    assert "a.before is kept: it wrote /app/model.gguf and 1 more outside its volumes" in events[-2].text
    assert (boxes["a.before"].state, boxes["a.before"].policy) == ("exited", "no"), "it starts at no boot"


@pytest.mark.parametrize(
    ("twins", "words"),
    [({"fails": "no space left"}, "no space left"), ({"hangs": True}, "a hangs: running")],
)
def test_where_it_fails_the_old_one_gets_its_name_back(twins: dict[str, Any], words: str) -> None:
    events, plan, boxes = recreated(Twins(Host(Box("a", policy="always")), **twins))
    assert story(events, plan) == ["failed recreate_container", "finished halted"]
    assert words in events[-2].text
    assert {name: (box.state, box.policy) for name, box in boxes.items()} == {"a": ("exited", "always")}


def test_what_cannot_be_made_anew_is_not_touched() -> None:
    events, _, boxes = recreated(Twins(Host(Box("a")), why="it was started with --rm"))
    assert "a cannot be made anew: it was started with --rm. Restart it: docker restart a" in events[-2].text
    assert boxes["a"].phase == "ready"
    events, _, boxes = recreated(Twins(Host(Box("a"), Box("a.before"))))
    assert "a.before is there already" in events[-2].text
    assert boxes["a"].phase == "ready" or "a" in boxes


@pytest.mark.parametrize("created", [False, True])
def test_resumed_it_goes_on_where_it_was_broken_off(created: bool) -> None:
    """The runner was killed behind the rename, or behind the creation."""
    boxes = [Box("a.before"), *([Box("a")] if created else [])]
    events, plan, after = recreated(Twins(Host(*boxes)), begun=False)
    assert story(events, plan) == ["done recreate_container", "finished done"]
    assert {name: box.phase for name, box in after.items()} == {"a": "ready"}


DETAILS: dict[str, Any] = {
    "Id": "abcdef123456" + "0" * 52,
    "Image": "sha256:1",
    "Config": {"Hostname": "abcdef123456", "Env": ["A=1"], "Image": "llama:1", "Labels": {"x": "y"}, "MacAddress": ""},
    "HostConfig": {"Binds": ["models:/models"], "NetworkMode": "ai", "DeviceRequests": [{"Count": -1}]},
    "Mounts": [
        {"Type": "volume", "Name": "models", "Destination": "/models"},
        {"Type": "volume", "Name": "f00", "Destination": "/cache"},
        {"Type": "bind", "Source": "/srv", "Destination": "/srv"},
    ],
    "NetworkSettings": {
        "Networks": {
            "front": {"Aliases": ["abcdef123456"], "IPAddress": "10.0.0.2"},
            "ai": {"Aliases": ["llama", "abcdef123456"], "IPAMConfig": {"IPv4Address": "10.1.0.9"}, "Gateway": "x"},
        }
    },
}


def test_what_creates_a_twin() -> None:
    made = docker_twin.body(DETAILS, image="llama:1")
    assert made == {
        "Env": ["A=1"],
        "Image": "llama:1",
        "Labels": {"x": "y"},
        "HostConfig": {**DETAILS["HostConfig"], "Binds": ["models:/models", "f00:/cache"]},
        "NetworkingConfig": {
            "EndpointsConfig": {"ai": {"IPAMConfig": {"IPv4Address": "10.1.0.9"}, "Aliases": ["llama"]}}
        },
    }
    assert docker_twin.more_networks(DETAILS) == {"front": {}}
    named = {**DETAILS, "Config": {**DETAILS["Config"], "Hostname": "mine"}}
    assert docker_twin.body(named, image="x")["Hostname"] == "mine"


@pytest.mark.parametrize(("host", "why"), [({}, ""), ({"AutoRemove": True}, "--rm"), ({"Links": ["/a:/b"]}, "--link")])
def test_what_hinders_a_twin(host: dict[str, Any], why: str) -> None:
    found = docker_twin.hindrance({"HostConfig": host})
    assert (why in found) if why else found == ""


def test_what_would_be_lost() -> None:
    paths = ["/app/model.gguf", "/usr/bin/nvidia-smi", "/tmp/x", "/etc/ld.so.cache", "/root/.cache", "/run/secrets"]
    changes = [{"Path": path, "Kind": 1} for path in paths] + [{"Path": "/app", "Kind": 0}]
    changes += [{"Path": path, "Kind": 1} for path in ("/models", "/srv", "/dev", "/app/empty")]
    assert docker_twin.written(changes, DETAILS) == ["/app/model.gguf", "/app/empty"]
    assert docker_twin.written(None, DETAILS) == []


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        cluster = SimulatedCluster(tmp_path / "sim", speed=20.0)
        cluster.add_node("mark", gpus=[cluster.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
        for name in ("mark-v", "mark-i"):
            spec = Spec(name, gpu=True, restart="always", command=["-m", name], volumes={"models": "/models"})
            engine = LlamaCpp(cluster.world, models=[name])
            cluster.add_endpoint(f"remote/{name}", engine, node="mark", container=spec, gpu=0, vram_mib=3000.0)
        async with cluster:
            yield cluster


async def test_a_container_of_the_simulator_by_the_plan_that_follows_from_its_fault(
    sim: SimulatedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(sim.inventory_path)
    snapshot = await survey(loaded, None, tmp_path / "state")
    diagnosis = Diagnosis("mark", Fault.GPU_LOST, ("mark-v",))
    plan = plan_recovery(loaded.inventory, snapshot, diagnosis)
    assert [step.kind for step in plan.steps] == ["recreate_container", "healthy"]
    assert plan.danger is Danger.INTERRUPTS
    assert "docker rename mark-v mark-v.before" in plan.steps[0].command
    docker = sim.nodes["mark"].docker
    assert docker is not None
    before = {name: container.id for name, container in docker.containers.items()}

    async def open_already(container: SimContainer) -> None:
        """The new one runs the program of the old one, on the port that is its own."""

    monkeypatch.setattr(SimContainer, "publish", open_already)
    monkeypatch.setattr(SimContainer, "unpublish", open_already)
    docker.launch = lambda body, name: docker.containers[f"{name}.before"].program
    procedures = Procedures(tmp_path / "state", sim.inventory_path)
    procedure = await procedures.start(plan, attended=False)
    async with asyncio.timeout(60):
        events = [event.to_json() async for event in procedures.attach(procedure)]
    assert events[-1]["outcome"] == "done", events[-1]
    assert sorted(docker.containers) == ["mark-i", "mark-v"]
    after = docker.containers["mark-v"]
    assert (after.running, after.spec.gpu, after.spec.restart) == (True, True, "always")
    assert after.spec.raw["HostConfig"]["Binds"] == ["models:/models"]
    assert after.id != before["mark-v"]
    assert docker.containers["mark-i"].id == before["mark-i"]
