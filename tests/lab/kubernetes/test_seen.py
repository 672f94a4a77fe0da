"""What a console sees of a real API: workloads, pending pods in words, rights, events, a Service through its proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.files import Loaded, load
from backends.discovery.clusters import look_into, opened
from backends.engines.http import Http
from backends.world import World, survey
from tests.kubernetes.conftest import api_of
from tests.kubernetes.deploying import engine, serving
from tests.kubernetes.inventories import CODER, cluster_toml
from tests.kubernetes.test_kept import watching
from tests.lab.kubernetes.control import ADDRESS, VIEWER, ControlPlane
from tests.lab.kubernetes.kubelets import APPS, NODES, Nodes
from tests.procedures.test_process import until

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def inventory(plane: ControlPlane, folder: Path, more: str = "", **user: Any) -> Loaded:
    path = folder / "cluster.toml"
    path.write_text(cluster_toml(plane.kubeconfig(folder, **user), '{ order = ["llm/coder"] }', more, gpus="nvidia"))
    return load(path)


async def test_workloads_of_a_node(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_node("gpu-1", 2)
    await nodes.add_deployment("coder", 1)
    await nodes.add_deployment("big", 1, 2)
    await nodes.add_deployment("off")
    nodes.broken["lost"] = "pull"
    await nodes.add_deployment("lost", 1)
    await until(lambda: ("ready", "coder") in nodes.started, "it to run")
    loaded = inventory(plane, tmp_path)
    snapshot = await survey(loaded, None, tmp_path / "state")
    node = snapshot.nodes["gpu-1"]
    assert node.workloads_trouble is None
    states = {w.name: (w.state, w.error) for w in node.workloads}
    assert states["llm/coder"] == ("running", "")
    assert states["llm/off"][1] == "no replicas"
    assert "Insufficient nvidia.com/gpu" in states["llm/big"][1]
    assert "held by coder" in states["llm/big"][1]


async def test_a_service_answers_through_the_api(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_node("gpu-1", 2)
    async with serving(engine, ADDRESS) as port:
        await nodes.add_deployment("coder", 1, port=port)
        await until(lambda: ("ready", "coder") in nodes.started, "it to run")
        loaded = inventory(plane, tmp_path, CODER.replace("8000", str(port)).replace("vllm", "llama.cpp"))
        async with asyncio.timeout(30):  # until the endpoints' controller has seen the pod
            while not (await survey(loaded, None, tmp_path / "state")).endpoints["t/coder"].serving:
                await asyncio.sleep(0.2)
    snapshot = await survey(loaded, None, tmp_path / "state")
    assert "connection refused" in snapshot.endpoints["t/coder"].evidence, "the engine is gone, its pod is not"
    await nodes.patch(f"{APPS}/deployments/coder", {"spec": {"replicas": 0}})
    async with asyncio.timeout(30):
        while "no endpoints available" not in snapshot.endpoints["t/coder"].evidence:
            snapshot = await survey(loaded, None, tmp_path / "state")
    assert snapshot.endpoints["t/coder"].cause == "BAD_RESPONSE"


async def test_who_may_only_look_is_told_so(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_node("gpu-1", 2)
    await nodes.add_deployment("coder", 1)
    await bind(nodes, "viewer", await looking(nodes))
    loaded = inventory(plane, tmp_path, token=VIEWER)
    async with World(loaded, None, tmp_path / "state") as world:
        snapshot = await world.look()
    (coder,) = snapshot.nodes["gpu-1"].workloads
    assert coder.name == "llm/coder"
    assert coder.forbids("start") == "may not: update deployments/scale.apps in llm"
    assert coder.forbids("logs") == ""


async def looking(nodes: Nodes) -> str:
    """A role that may look at all that tierdeck looks at."""
    rules = [{"apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    await nodes.ask("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "looking"}, "rules": rules})
    return "looking"


async def bind(nodes: Nodes, user: str, name: str) -> None:
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    bound = {"metadata": {"name": user}, "subjects": [subject], "roleRef": role}
    await nodes.ask("POST", f"{RBAC}/clusterrolebindings", bound)


async def test_a_client_certificate_is_a_login(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_node("gpu-1", 2)
    await bind(nodes, "ops", "cluster-admin")
    certificate, key = plane.authority.pair("ops")
    user = {"client-certificate": str(certificate), "client-key": str(key)}
    loaded = inventory(plane, tmp_path, user=user)
    node = (await survey(loaded, None, tmp_path / "state")).nodes["gpu-1"]
    assert node.workloads_trouble is None
    assert node.workloads == ()


async def test_services_become_endpoints(
    nodes: Nodes, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig(tmp_path)))
    await nodes.add_node("gpu-1", 2)
    async with serving(engine, ADDRESS) as port, Http() as http, opened("", ["llm"]) as clusters:
        await nodes.add_deployment("coder", 1, port=port)
        await until(lambda: ("ready", "coder") in nodes.started, "it to run")
        async with asyncio.timeout(30):
            while not (found := (await look_into(clusters, http, "", ["llm"])).services) or not found[0].running:
                await asyncio.sleep(0.2)
    (endpoint,) = found
    assert (endpoint.name, endpoint.url) == ("home/coder", f"http://coder.llm:{port}")
    assert (endpoint.proxied, endpoint.node, endpoint.workload) == (True, "gpu-1", "llm/coder")


async def test_many_pods_are_listed_in_pages(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_deployment("many", 1200, 0)  # of no node: the scheduler has none to give them
    await nodes.add_node("gpu-1", 0)
    await nodes.patch(f"{NODES}/gpu-1", {"spec": {"unschedulable": True}})
    async with asyncio.timeout(240):
        while (await nodes.deployment("many"))["status"].get("replicas", 0) < 1200:
            await asyncio.sleep(0.5)
    api = api_of(plane.kubeconfig(tmp_path))
    async with watching(api, "/api/v1/namespaces/llm/pods") as kept:
        assert len(kept.objects) == 1200
        await nodes.patch(f"{APPS}/deployments/many", {"spec": {"replicas": 1100}})
        await until(lambda: len(kept.objects) == 1100, "some to be gone")
    await api.close()
