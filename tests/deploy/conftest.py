"""A simulated node to deploy to, and what is compared before and after."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.deploying import Spec
from backends.cluster.files import Loaded, load
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.plan import Plan
from backends.procedures.runner import Ask
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.docker_api import SimDocker
from backends.simulator.engines.litellm import LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import OllamaModel
from backends.world import World
from tests.deploy.carrying import carry_out

IMAGE = "llama:b1"
MODEL = bytes(range(256)) * 4096
FORMER = b"# mine \xc3\xa9\r\nmodel_list: []\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Site:
    """The node, its cluster, its gateway, and a model."""

    sim: SimulatedCluster
    folder: Path
    model: Path
    litellm: LiteLlm

    @property
    def docker(self) -> SimDocker:
        docker = self.sim.nodes["mark"].docker
        assert docker is not None
        return docker

    @property
    def cluster(self) -> Path:
        return self.sim.inventory_path

    @property
    def loaded(self) -> Loaded:
        return load(self.cluster)

    def spec(self, **fields: Any) -> Spec:
        told = {
            "version": 1, "name": "coder", "node": "mark", "preset": "llama.cpp", "image": IMAGE, "gpus": "all",
            "port": free_port(), "model": str(self.model), "context": 512, "tasks": ["code"],
        }  # fmt: skip
        return Spec.model_validate({key: value for key, value in (told | fields).items() if value is not None})

    async def plan(self, spec: Spec, *, force: bool = False) -> Plan:
        async with World(self.loaded, None, self.folder / "state") as world:
            return await world.plan_deploy(spec, force=force)

    async def carry_out(
        self, plan: Plan, *, kinds: Mapping[str, Any] = KINDS, ask: Ask | None = None, back: bool = False
    ) -> list[StepEvent]:
        """Carry it out as the runner's process does."""
        return await carry_out(self.cluster, plan, self.folder / "state", kinds=kinds, ask=ask, back=back)

    def state(self) -> dict[str, object]:
        """What a rollback restores: containers, images, volumes with their files, the folder of cluster.toml."""
        disk, folder = self.docker.disk, self.cluster.parent
        volumes = {
            name: {
                str(f.relative_to(disk.volume(name))): f.read_bytes()
                for f in disk.volume(name).rglob("*")
                if f.is_file()
            }
            for name in disk.volumes
        }
        config = {p.name: p.read_bytes() for p in [self.cluster, *folder.glob("cluster.d/*")]}
        containers = {c.name: (c.id, c.state) for c in self.docker.containers.values()}
        return {
            "containers": containers, "images": set(self.docker.images), "volumes": volumes, "config": config,
            "cluster.d": (folder / "cluster.d").exists(), "gateway": _contents(self.gateway.parent),
            "served": set(self.litellm.deployments) if self.docker.containers["litellm"].running else None,
        }  # fmt: skip

    @property
    def gateway(self) -> Path:
        """What the gateway reads when it starts."""
        return self.folder / "gateway" / "config.yaml"

    def copied(self, path: str = "", volume: str = "coder-models") -> bytes:
        return (self.docker.disk.volume(volume) / (path or self.model.name)).read_bytes()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    sim = SimulatedCluster(tmp_path / "sim", name="small")
    gpu = sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)
    queue = {"order": ["mark-i"], "gap": "50ms", "ready_timeout": "30s"}
    sim.add_node("mark", gpus=[gpu], fields={"queue": queue, "gpus": "none"})
    engine = LlamaCpp(sim.world, models=["/models/a.gguf"])
    sim.add_endpoint("remote/a", engine, tier="REMOTE", node="mark", container="mark-i", gpu=0, init_s=0.1, load_s=0.1)
    config = tmp_path / "gateway" / "config.yaml"
    config.parent.mkdir()
    config.write_bytes(FORMER)
    litellm = LiteLlm(sim.world, config=config, retry_s=0.05)
    fields: dict[str, Any] = {"node": "mark", "container": "litellm", "load_s": 0.1}
    sim.add_endpoint("gateway/litellm", litellm, tier="GATEWAY", **fields)
    sim.extra = {
        "router": {"code": ["remote/a"]}, "gateway": {"endpoint": "gateway/litellm", "config": str(config)},
    }  # fmt: skip
    sim.runs_engines("mark", registry=[OllamaModel("qwen2.5:0.5b", 400.0, 600.0, load_s=0.1)])
    model = tmp_path / "model.gguf"
    model.write_bytes(MODEL)
    async with sim:
        found = Site(sim, tmp_path, model, litellm)
        found.docker.images.add(IMAGE)
        yield found
