"""A cluster seen as a whole: nodes, workloads and panes, both runtimes side by side."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.files import Loaded, load
from backends.cluster.reading import Device
from backends.errors import RuntimeFailure
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.cluster import KubernetesCluster
from backends.reach.kubernetes.runtime import KubernetesRuntime
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from backends.world import World, survey
from tests.kubernetes.double import VIEWER, Double
from tests.kubernetes.inventories import CODER, cluster_toml
from tests.kubernetes.store import KINDS
from tests.reach.conftest import until
from tui.details import details
from widgets.glyphs import UNICODE
from widgets.gpus import GpusPane
from widgets.queue import QueuePane


def inventory(folder: Path, double: Double, more: str = "", token: str = "admin-token") -> Loaded:
    path = folder / "cluster.toml"
    queue = '{ order = ["llm/coder", "llm/mistral"] }'
    path.write_text(cluster_toml(double.kubeconfig(folder, token), queue, more, gpus="nvidia"))
    return load(path)


def runtime_of(api: KubernetesApi, node: str = "gpu-1") -> tuple[KubernetesCluster, KubernetesRuntime]:
    cluster = KubernetesCluster(api, ["llm"])
    return cluster, KubernetesRuntime(cluster, node)


async def test_a_node_of_a_cluster_is_a_node_like_all_others(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 2)
    double.add_deployment("coder", 1)
    double.add_deployment("mistral", 1)
    double.add_deployment("big", 1, 2)
    await until(lambda: len([e for e in double.controllers.started if e[0] == "ready"]) == 2)
    loaded = inventory(tmp_path, double)
    snapshot = await survey(loaded, None, tmp_path / "state")
    node = snapshot.nodes["gpu-1"]
    assert (node.reach_trouble, node.workloads_trouble, node.gpus_trouble) == (None, None, None)
    assert [(w.name, w.state, w.health) for w in node.workloads] == [
        ("llm/big", "created", None),
        ("llm/coder", "running", "healthy"),
        ("llm/mistral", "running", "healthy"),
    ]
    assert node.workloads[0].error == "1 of 1 nodes: Insufficient nvidia.com/gpu; held by coder, mistral"
    assert node.devices == (Device("nvidia.com/gpu", 2, 2, 2, ("coder 1", "mistral 1")),)
    lines = drawn(loaded, snapshot)
    assert "gpu-1 nvidia.com/gpu 2 of 2 requested: coder 1, mistral 1" in lines
    assert any("llm/coder" in line and "healthy" in line for line in lines)
    assert any("llm/big" in line and "held by coder, mistral" in line for line in lines)
    told = details(loaded.inventory, snapshot, "container:gpu-1/llm/big", 80)
    assert any("asks for 2 nvidia.com/gpu" in each.text for each in told)


def drawn(loaded: Loaded, snapshot: Any) -> list[str]:
    panes = (QueuePane(loaded.inventory, UNICODE), GpusPane(loaded.inventory, UNICODE))
    for pane in panes:
        pane._snapshot = snapshot
    return ["".join(str(text) for text, _ in line.spans).strip() for pane in panes for line in pane.compose_lines(140)]


async def test_what_is_known_is_not_asked_again(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    async with World(inventory(tmp_path, double), None, tmp_path / "state") as world:
        (source,) = [s for s in world.sources() if s.key == "machine gpu-1"]
        await source.read()
        await until(lambda: len(double.requests) == 17)  # seven lists, as many watches, the API's groups, two rights
        asked = len(double.requests)
        for _ in range(20):
            await source.read()
        assert len(double.requests) == asked
        double.deployment("coder")["spec"]["replicas"] = 1
        double.store.touch(KINDS["deployments"], double.deployment("coder"))
        double.controllers.reconcile()
        async with asyncio.timeout(5):
            while (await source.read())[0][1].workloads[0].health != "healthy":  # type: ignore[union-attr]
                await asyncio.sleep(0.01)


async def test_what_a_viewer_may_not_is_told(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    snapshot = await survey(inventory(tmp_path, double, token=VIEWER), None, tmp_path / "state")
    trouble = snapshot.nodes["gpu-1"].workloads_trouble
    assert trouble is not None
    assert trouble.message == "home: may not: list deployments.apps in llm."


async def test_nodes_may_be_withheld_from_us(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    double.forbidden |= {("list", "nodes"), ("list", "persistentvolumeclaims")}
    cluster, runtime = runtime_of(api)
    assert [w.name for w in await runtime.workloads()] == ["llm/coder"]
    assert await runtime.devices() == ()
    await cluster.close()


async def test_a_node_that_is_not_there_or_not_ready(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    cluster, runtime = runtime_of(api, "gpu-2")
    with pytest.raises(RuntimeFailure, match=r"home has no node gpu-2\. It has: gpu-1"):
        await runtime.workloads()
    item = double.store.get(KINDS["nodes"], "", "gpu-1")
    item["status"]["conditions"][0] |= {"status": "Unknown", "message": "Kubelet stopped posting node status."}
    double.store.touch(KINDS["nodes"], item)
    other = KubernetesRuntime(cluster, "gpu-1")
    await until(lambda: not cluster._hosts.objects["/gpu-1"].ready)
    with pytest.raises(RuntimeFailure, match="gpu-1 is NotReady in home: Kubelet stopped posting node status"):
        await other.workloads()
    await cluster.close()


async def test_logs_and_events(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 1)
    double.add_deployment("coder", 1)
    cluster, runtime = runtime_of(api)
    await until(lambda: bool(double.controllers.started))
    double.logs[double.pod_of("coder")["metadata"]["name"]] = ["one", "\x1b[31mtwo\x1b[0m"]
    async with runtime.logs("llm/coder") as lines:
        assert [line async for line in lines] == ["one", "two"]
    double.add_deployment("other", 1)
    async with runtime.events() as events:
        double.controllers.event(double.pod_of("coder"), "BackOff", "x")
        event = await anext(events)
        assert (event.name, event.action, event.gpu) == ("llm/coder", "BackOff", True)
    with pytest.raises(RuntimeFailure, match="home has no workload llm/none"):
        async with runtime.logs("llm/none"):
            pass
    await cluster.close()


async def test_a_service_answers_through_the_api(double: Double, tmp_path: Path) -> None:
    from aiohttp import web

    seen: list[tuple[str, str, str]] = []

    async def engine(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, request.raw_path, request.headers.get("Authorization", "")))
        if request.path.endswith("/v1/models"):
            return web.json_response({"object": "list", "data": [{"id": "qwen", "object": "model"}]})
        return web.Response(text="")

    double.services["coder:8000"] = engine
    double.add_node("gpu-1", 8)
    loaded = inventory(tmp_path, double, CODER)
    snapshot = await survey(loaded, None, tmp_path / "state")
    state = snapshot.endpoints["t/coder"]
    assert (state.cause and state.cause.value, [m.name for m in state.models]) == ("OK", ["qwen"]), state.evidence
    assert ("GET", "/api/v1/namespaces/llm/services/coder:8000/proxy/health", "Bearer admin-token") in seen
    async with World(loaded, None, tmp_path / "state") as world:
        (source,) = [s for s in world.sources() if s.key == "t/coder"]
        assert (await source.read())[0][0].result.cause.value == "OK"  # type: ignore[union-attr]
        double.html = True
        for _ in range(2):
            (reading,), _ = await source.read()
        assert reading.result.cause.value == "BAD_RESPONSE"  # type: ignore[union-attr]
        double.html = False
    double.services.clear()
    snapshot = await survey(loaded, None, tmp_path / "state")
    assert snapshot.endpoints["t/coder"].cause is not None
    assert snapshot.endpoints["t/coder"].cause.value != "OK"


async def test_where_the_api_meets_no_engine_it_is_the_api_who_says_so(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    snapshot = await survey(inventory(tmp_path, double, CODER), None, tmp_path / "state")
    evidence = '502 on /health: no endpoints available for service "coder:8000"'
    assert (snapshot.endpoints["t/coder"].cause, snapshot.endpoints["t/coder"].evidence) == ("BAD_RESPONSE", evidence)


async def test_both_runtimes_of_one_node_are_listed(double: Double, tmp_path: Path) -> None:
    loaded = inventory(tmp_path, double)
    async with Reaches(loaded.inventory, "gpu-1", Secrets()) as reaches:
        assert [r.kind for r in await reaches["gpu-1"].runtimes()] == ["kubernetes"]
        with pytest.raises(RuntimeFailure, match="names no systemd service on gpu-1"):
            await reaches["gpu-1"].runtime_of("systemd")
    text = loaded.path.read_text().replace('kubernetes = "home"', 'kubernetes = "home"\ndocker = {}')
    loaded.path.write_text(text)
    async with Reaches(load(loaded.path).inventory, "gpu-1", Secrets()) as reaches:
        assert [r.kind for r in await reaches["gpu-1"].runtimes()] == ["docker", "kubernetes"]


async def test_an_api_that_is_away_is_no_fault_of_the_engine(double: Double, tmp_path: Path) -> None:
    loaded = inventory(tmp_path, double, CODER)
    double.kubeconfig(tmp_path, server="https://127.0.0.1:9")
    snapshot = await survey(loaded, None, tmp_path / "state")
    state = snapshot.endpoints["t/coder"]
    assert state.cause is not None
    assert (state.cause.value, state.evidence) == (
        "UNREACHABLE",
        "through Kubernetes: home: its API https://127.0.0.1:9 refuses connections.",
    )


async def test_the_doctor_asks_a_cluster_too(double: Double, tmp_path: Path) -> None:
    from backends.doctor.nodes import examine_node

    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    loaded = inventory(tmp_path, double)
    async with Reaches(loaded.inventory, None, Secrets()) as reaches:
        found = await examine_node(loaded.inventory.node_named["gpu-1"], loaded.inventory, reaches["gpu-1"])
    assert [(f.state, f.subject) for f in found] == [
        ("ok", "gpu-1: Kubernetes"),
        ("bad", "gpu-1: container llm/mistral"),
    ]
    assert "version v1.35.6, 1 workloads" in found[0].text


async def test_who_goes_away_ends_what_runs_behind_the_proxy(double: Double, tmp_path: Path) -> None:
    from aiohttp import ClientSession, web

    ended = asyncio.Event()

    async def engine(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"token ")
                await asyncio.sleep(0.01)
        except ConnectionResetError:
            ended.set()
        return response

    double.services["coder:8000"] = engine
    loaded = inventory(tmp_path, double)
    async with Reaches(loaded.inventory, None, Secrets()) as reaches:
        port = await reaches.clusters.service("home", "http://coder.llm:8000")
        assert await reaches.clusters.service("home", "http://coder.llm:8000") == port
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/v1/completions") as answer:
            assert (await answer.content.readany()).startswith(b"token")
        async with asyncio.timeout(5):
            await ended.wait()
