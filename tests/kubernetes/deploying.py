"""A cluster to deploy to: the API double with a namespace, a node, an engine behind a Service, a model's address."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from backends.cluster.deploying import Spec
from backends.cluster.files import Loaded, load
from backends.procedures.plan import Plan
from backends.world import World
from tests.kubernetes.applying import updated
from tests.kubernetes.double import Double
from tests.kubernetes.inventories import cluster_toml
from tests.kubernetes.store import KINDS as RESOURCES

MODEL = b"GGUF" * 1024
KINDS_OF_OURS = ("persistentvolumeclaims", "secrets", "jobs", "deployments", "services")


@dataclass
class Place:
    """A cluster.toml, and where a model lies."""

    folder: Path
    model: str

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster.toml"

    @property
    def loaded(self) -> Loaded:
        return load(self.cluster)

    def spec(self, **fields: Any) -> Spec:
        told = {
            "version": 1, "name": "coder", "node": "gpu-1", "preset": "llama.cpp", "image": "llama:b1", "port": 3011,
            "model": self.model, "context": 512, "tasks": ["code"], "sha256": "0" * 64, "gpus": [0],
        }  # fmt: skip
        return Spec.model_validate({key: value for key, value in (told | fields).items() if value is not None})

    async def plan(self, *, force: bool = False, **fields: Any) -> Plan:
        async with World(self.loaded, None, self.folder / "state") as world:
            return await world.plan_deploy(self.spec(**fields), force=force)

    def files(self) -> dict[str, str]:
        """The files that a deployment may change, by name."""
        return {p.name: p.read_text() for p in [self.cluster, *self.folder.glob("cluster.d/*")]}


@dataclass
class Site(Place):
    """One whose API is the double."""

    double: Double

    def hand_over(self, name: str, manager: str = "kubectl-create") -> None:
        """Have all fields of a Deployment managed by somebody else."""
        updated(None, self.double.deployment(name), RESOURCES["deployments"], manager)

    def state(self) -> dict[str, Any]:
        """What a rollback restores: our kinds of objects by their specs, and the files beside cluster.toml."""
        objects = {
            (plural, item["metadata"]["name"]): (item.get("spec"), item["metadata"].get("labels"), _words(item))
            for plural in KINDS_OF_OURS
            for item in self.double.store.all(plural)
        }
        there = (self.folder / "cluster.d").exists()
        return {"objects": copy.deepcopy(objects), "files": self.files(), "cluster.d": there}


def _words(item: dict[str, Any]) -> dict[str, str]:
    return dict(item["metadata"].get("annotations") or {})


async def engine(request: web.Request) -> web.StreamResponse:
    """A llama.cpp that answers."""
    path = request.path.rpartition("/proxy")[2]
    if path == "/health":
        return web.json_response({"status": "ok"})
    if path == "/v1/models":
        return web.json_response({"object": "list", "data": [{"id": "coder", "object": "model"}]})
    if path == "/v1/chat/completions":
        said = 'data: {"choices":[{"index":0,"delta":{"content":"Yes."}}]}\n\ndata: [DONE]\n\n'
        return web.Response(text=said, content_type="text/event-stream")
    return web.json_response({"error": "no such route"}, status=404)


@asynccontextmanager
async def serving(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], address: str, port: int = 0
) -> AsyncIterator[int]:
    """A port of that address at which every request is answered so."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def model(request: web.Request) -> web.StreamResponse:
    """The model's file."""
    return web.Response(body=MODEL)


@asynccontextmanager
async def deployable(double: Double, folder: Path) -> AsyncIterator[Site]:
    """The site; its model is served at an address as long as it is open."""
    store, default = double.store, {"storageclass.kubernetes.io/is-default-class": "true"}
    store.create(RESOURCES["namespaces"], "", {"metadata": {"name": "llm"}, "status": {"phase": "Active"}})
    store.create(RESOURCES["storageclasses"], "", {"metadata": {"name": "local-path", "annotations": default}})
    double.add_node("gpu-1", 8)
    double.services["coder:3011"] = engine
    queue = '{ gap = "50ms", ready_timeout = "10s" }'
    (folder / "cluster.toml").write_text(cluster_toml(double.kubeconfig(folder), queue))
    async with serving(model, "127.0.0.1") as port:
        yield Site(folder, f"http://127.0.0.1:{port}/coder.gguf", double)
