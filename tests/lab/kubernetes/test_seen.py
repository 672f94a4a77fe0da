"""What a console sees of a real API: workloads, pending pods in words, rights, events, a Service through its proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

from backends.cluster.files import Loaded, load
from backends.world import World, survey
from tests.kubernetes.deploying import engine, serving
from tests.kubernetes.inventories import CODER, cluster_toml
from tests.lab.kubernetes.control import ADDRESS, VIEWER, ControlPlane
from tests.lab.kubernetes.kubelets import APPS, Nodes
from tests.procedures.test_process import until

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def inventory(plane: ControlPlane, folder: Path, more: str = "", **user: str) -> Loaded:
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
    await allow(nodes, "viewer")
    loaded = inventory(plane, tmp_path, token=VIEWER)
    async with World(loaded, None, tmp_path / "state") as world:
        snapshot = await world.look()
    (coder,) = snapshot.nodes["gpu-1"].workloads
    assert coder.name == "llm/coder"
    assert coder.forbids("start") == "may not: update deployments/scale.apps in llm"
    assert coder.forbids("logs") == ""


async def allow(nodes: Nodes, user: str) -> None:
    rules = [{"apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    await nodes.ask("POST", f"{RBAC}/clusterroles", {"metadata": {"name": user}, "rules": rules})
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    bound = {"metadata": {"name": user}, "subjects": [subject], "roleRef": role}
    await nodes.ask("POST", f"{RBAC}/clusterrolebindings", bound)
