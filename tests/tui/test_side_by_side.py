"""Both runtimes on one screen: a simulated Docker node and a node of a Kubernetes API double, as they are seen."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from syrupy.assertion import SnapshotAssertion

from backends.cluster.files import Loaded, load
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, NodeState
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.world import survey
from tests.kubernetes.double import Double, serving
from tests.kubernetes.store import KINDS
from tests.kubernetes.test_beside import WAITING, autoscaler
from tests.kubernetes.test_gpus import WHOLE, exported
from tests.reach.conftest import until as soon
from tests.tui.driving import console, picture, shown, until
from tests.tui.sample import NOW, StillFeed

KUBERNETES = """
[[clusters]]
name = "home"
kubeconfig = "{path}"
namespaces = ["llm"]

[[nodes]]
name = "talos-1"
address = "10.0.10.30"
gpus = "nvidia"
kubernetes = "home"
queue = {{ order = ["llm/coder", "llm/mistral"] }}

[[tiers]]
name = "HOME"

[[endpoints]]
name = "home/coder"
tier = "HOME"
node = "talos-1"
engine = "vllm"
url = "http://coder.llm:8000"
via = "kubernetes"
container = "llm/coder"
tasks = ["code"]
"""


def docker_node(folder: Path) -> SimulatedCluster:
    """A machine with a 3090, a model that serves and one that is stopped."""
    sim = SimulatedCluster(folder, name="lumina")
    fields = {"queue": {"order": ["mark-v", "mark-iv"]}}
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], fields=fields)
    for name, state in (("mark-v", "ready"), ("mark-iv", "stopped")):
        engine = LlamaCpp(sim.world, models=[f"/models/{name}.gguf"])
        more: dict[str, Any] = {"state": state, "on_demand": state == "stopped", "init_s": 0.0, "load_s": 0.0}
        sim.add_endpoint(
            f"remote/{name}", engine, tier="REMOTE", node="mark", container=name, gpu=0, vram_mib=7000.0,
            tasks=["chat"], **more,
        )  # fmt: skip
    return sim


def kubernetes_node(double: Double) -> None:
    """A node with two GPUs: two workloads that have them, one scaled by what waits, and one that waits for one."""
    double.add_node("talos-1", 2)
    for name in ("coder", "mistral", "qwen"):
        double.add_deployment(name, 1)
    double.store.create(KINDS["horizontalpodautoscalers"], "llm", autoscaler(WAITING))
    double.add_pod("dcgm-x", "talos-1", {"app.kubernetes.io/name": "dcgm-exporter"})

    async def metrics(request: web.Request) -> web.StreamResponse:
        pods = [f"llm/{double.pod_of(name)['metadata']['name']}" for name in ("coder", "mistral")]
        busy = {**WHOLE, "FB_USED": 61000, "FB_FREE": 82771, "pods": pods[:1]}
        return web.Response(text=exported(busy, {**WHOLE, "GPU_UTIL": 3, "GPU_TEMP": 41, "pods": pods[1:]}))

    async def engine(request: web.Request) -> web.StreamResponse:
        listed = {"object": "list", "data": [{"id": "qwen3-coder-30b", "object": "model", "owned_by": "vllm"}]}
        return web.json_response(listed) if request.path.endswith("/v1/models") else web.Response(text="")

    double.services |= {"dcgm-x:9400": metrics, "coder:8000": engine}


def still(snapshot: ClusterSnapshot) -> ClusterSnapshot:
    """What was seen, with times and latencies that are the same on every day."""

    def endpoint(state: EndpointState) -> EndpointState:
        band = "12 ms" if state.latency is not None else ""
        return replace(state, latency_band=band, taken=NOW, since=NOW, turned=NOW, age=0)

    def node(state: NodeState) -> NodeState:
        workloads = tuple(replace(w, started_at=w.started_at and NOW.wall - 900) for w in state.workloads)
        drawn = (replace(gpu, utilization_pct=3.0, temperature_c=41.0) for gpu in state.gpus)
        gpus = tuple(drawn) if state.name == "mark" else state.gpus
        return replace(state, workloads=workloads, gpus=gpus, gpus_taken=NOW, workloads_taken=NOW)

    endpoints = {name: endpoint(state) for name, state in snapshot.endpoints.items()}
    return replace(snapshot, taken=NOW, endpoints=endpoints, nodes={n: node(s) for n, s in snapshot.nodes.items()})


async def seen(folder: Path) -> tuple[Loaded, ClusterSnapshot]:
    """One look at both."""
    async with serving(Double()) as double, docker_node(folder / "sim") as sim:
        kubernetes_node(double)
        await soon(lambda: {("ready", "coder"), ("ready", "mistral")} <= set(double.controllers.started))
        sim.inventory_path.write_text(sim.inventory + KUBERNETES.format(path=double.kubeconfig(folder)))
        loaded = load(sim.inventory_path)
        return loaded, still(await survey(loaded, None, folder / "state"))


@pytest.mark.parametrize("size", [(160, 45), (80, 24)], ids=["160x45", "80x24"])
async def test_both_runtimes_side_by_side(size: tuple[int, int], svg: SnapshotAssertion, tmp_path: Path) -> None:
    loaded, snapshot = await seen(tmp_path)

    class SeenFeed(StillFeed):
        async def run(self) -> None:
            before, self.live.snapshot = self.live.snapshot, snapshot
            self.live._publish(before, snapshot)
            await asyncio.Event().wait()

    async with console(tmp_path, size=size, feed=SeenFeed, loaded=loaded) as (app, _):
        await until(lambda: "mark-v" in shown(app) and "llm/coder" in shown(app), "both nodes")
        assert await picture(app) == svg(name=f"kubernetes-{size[0]}x{size[1]}")
