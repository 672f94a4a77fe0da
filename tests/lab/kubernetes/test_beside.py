"""What stands beside workloads, by a real API: volumes, measured GPUs, cordons, scanners' reports, a node's SSH."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from backends.cluster.files import Loaded
from backends.cluster.inventory import Inventory
from backends.cluster.noted import Volume
from backends.cluster.snapshot import ClusterSnapshot, NodeState
from backends.procedures.commands import Procedures
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from backends.world import World, survey
from tests.kubernetes.deploying import serving
from tests.kubernetes.store import KINDS, Kind
from tests.kubernetes.test_beside import FOUND, GIB, reports, summary
from tests.kubernetes.test_gpus import WHOLE, exported
from tests.kubernetes.test_queue import ended
from tests.kubernetes.test_recovery import planned
from tests.lab.fixtures import lab_sshd
from tests.lab.kubernetes.control import ADDRESS, ControlPlane
from tests.lab.kubernetes.kubelets import APPS, NODES, PODS, Nodes
from tests.lab.kubernetes.test_queue import loaded
from tests.lab.kubernetes.test_seen import inventory
from tests.lab.parts import OpenSsh
from tests.procedures.test_process import until

__all__ = ["lab_sshd", "loaded"]

CLAIMS = "/api/v1/namespaces/llm/persistentvolumeclaims"


async def ready(nodes: Nodes, name: str = "coder") -> None:
    await until(lambda: ("ready", name) in nodes.started, f"{name} to be ready")


async def node_of(loaded: Loaded, folder: Path) -> NodeState:
    snapshot: ClusterSnapshot = await survey(loaded, None, folder / "state")
    return snapshot.nodes["gpu-1"]


async def test_how_full_a_models_volume_is(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_node("gpu-1")
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}}
    await nodes.ask("POST", CLAIMS, {"metadata": {"name": "cache"}, "spec": asked})
    mounted = {"name": "m", "persistentVolumeClaim": {"claimName": "cache"}}
    await nodes.add_deployment("coder", 0, volumes=[mounted])
    container = {"name": "vllm", "volumeMounts": [{"name": "m", "mountPath": "/models"}]}
    pods = {"replicas": 1, "template": {"spec": {"containers": [container]}}}
    merge = "application/strategic-merge-patch+json"
    await nodes.ask("PATCH", f"{APPS}/deployments/coder", {"spec": pods}, kind=merge)
    await ready(nodes)
    nodes.summary = summary(("cache", 61 * GIB, 100 * GIB))
    (workload,) = (await node_of(inventory(plane, tmp_path), tmp_path)).workloads
    assert workload.volumes == (Volume("cache", 102400.0, 62464.0),)


async def test_gpus_are_measured_by_an_exporter(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_node("gpu-1")
    await nodes.add_deployment("coder", 1)
    await ready(nodes)
    (coder,) = await nodes.all(f"{PODS}?labelSelector=app=coder")
    asked: list[str] = []

    async def metrics(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(text=exported({**WHOLE, "pods": [f"llm/{coder['metadata']['name']}"]}))

    async with serving(metrics, ADDRESS) as port:
        container = {"name": "dcgm", "image": "dcgm", "ports": [{"name": "metrics", "containerPort": port}]}
        labels = {"app": "nvidia-dcgm-exporter"}
        pod = {"metadata": {"name": "dcgm", "labels": labels}, "spec": {"containers": [container]}}
        await nodes.ask("POST", "/api/v1/namespaces/llm/pods", pod)
        await ready(nodes, "nvidia-dcgm-exporter")
        loaded = inventory(plane, tmp_path)
        node = await node_of(loaded, tmp_path)
        (gpu,) = node.gpus
        assert node.gpus_trouble is None
        assert (gpu.name, gpu.memory_used_mib, gpu.utilization_pct) == ("NVIDIA H200", 40000.0, 71.0)
        assert gpu.processes is not None
        (process,) = gpu.processes
        assert process.container == coder["metadata"]["uid"], "the exporter's pod is the API's"
        async with World(loaded, None, tmp_path / "state") as world:
            (stream,) = world.streams()
            readings = stream.readings()
            assert (await anext(readings)).gpus == node.gpus  # type: ignore[union-attr]
            await readings.aclose()
    assert set(asked) == {"/metrics"}


async def test_nothing_new_is_placed_on_a_cordoned_node(nodes: Nodes, loaded: Loaded, tmp_path: Path) -> None:
    procedures = Procedures(tmp_path / "state", loaded.path)
    events = await ended(procedures, await procedures.start(await planned(loaded, tmp_path, "cordon")))
    assert events[-1]["outcome"] == "done", events
    await nodes.patch(f"{APPS}/deployments/coder", {"spec": {"replicas": 1}})
    async with asyncio.timeout(30):
        while "unschedulable" not in await error_of(loaded, tmp_path):
            await asyncio.sleep(0.1)
    assert ("running", "coder") not in nodes.started
    events = await ended(procedures, await procedures.start(await planned(loaded, tmp_path, "uncordon")))
    assert events[-1]["outcome"] == "done", events
    await ready(nodes)
    assert "unschedulable" not in (await nodes.ask("GET", f"{NODES}/gpu-1"))["spec"]


async def defined(nodes: Nodes, kind: Kind) -> str:
    """Where the objects of a custom resource are, once the API serves them; a scanner's chart defines it."""
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": kind.plural, "singular": kind.kind.lower(), "kind": kind.kind}
    version = {"name": kind.version, "served": True, "storage": True, "schema": anything}
    spec = {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]}
    definitions, name = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", f"{kind.plural}.{kind.group}"
    await nodes.ask("POST", definitions, {"metadata": {"name": name}, "spec": spec})
    async with asyncio.timeout(30):
        while True:
            told = (await nodes.ask("GET", f"{definitions}/{name}")).get("status", {}).get("conditions") or []
            if any(each["type"] == "Established" and each["status"] == "True" for each in told):
                return f"/apis/{kind.group}/{kind.version}/namespaces/llm/{kind.plural}"
            await asyncio.sleep(0.1)


async def test_what_scanners_found(nodes: Nodes, plane: ControlPlane, tmp_path: Path) -> None:
    await nodes.add_node("gpu-1")
    await nodes.add_deployment("coder", 1)
    await ready(nodes)
    (pod,) = await nodes.all(f"{PODS}?labelSelector=app=coder")
    found = reports("coder", pod["metadata"]["ownerReferences"][0]["name"])
    where = {plural: await defined(nodes, KINDS[plural]) for plural in dict(found)}
    for plural, report in found:
        kind = KINDS[plural]
        told = {"apiVersion": f"{kind.group}/{kind.version}", "kind": kind.kind, **report}
        await nodes.ask("POST", where[plural], told)
    (workload,) = (await node_of(inventory(plane, tmp_path), tmp_path)).workloads
    assert [(scan.scanner, scan.words) for scan in workload.scans] == FOUND


async def error_of(loaded: Loaded, folder: Path) -> str:
    workloads = (await node_of(loaded, folder)).workloads
    return next(each.error for each in workloads if each.name == "llm/coder")


async def test_the_api_is_reached_through_a_nodes_ssh(
    nodes: Nodes, plane: ControlPlane, lab_sshd: OpenSsh, tmp_path: Path
) -> None:
    await nodes.add_node("gpu-1")
    await nodes.add_deployment("coder", 1)
    await ready(nodes)
    told = inventory(plane, tmp_path).inventory.model_dump(exclude_unset=True)
    login = {"user": lab_sshd.user, "port": lab_sshd.port, "key": str(lab_sshd.key)}
    login |= {"known_hosts": str(lab_sshd.known_hosts)}
    told["clusters"][0]["via"] = "mark"
    told["nodes"] = [*told["nodes"], {"name": "mark", "address": lab_sshd.address, "ssh": login}]
    async with Reaches(Inventory.model_validate({**told, "version": 1}), None, Secrets()) as reaches:
        runtime = reaches["gpu-1"].kubernetes()
        assert runtime is not None
        assert [(w.name, w.state) for w in await runtime.workloads()] == [("llm/coder", "running")]
