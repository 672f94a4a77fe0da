"""The start queue before real controllers and a real scheduler: in order, killed, the API server restarted, updated."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from backends.cluster.files import Loaded, load
from backends.procedures.startup import plan_queue
from backends.world import survey
from tests.kubernetes.inventories import cluster_toml
from tests.kubernetes.test_queue import NAMES, begun, ended, one_by_one
from tests.kubernetes.test_updates import NEW
from tests.lab.kubernetes.kubelets import APPS, Nodes
from tests.procedures.test_process import ROOT, until

LEASES = "/apis/coordination.k8s.io/v1/namespaces/llm/leases"


@pytest.fixture
async def loaded(
    nodes: Nodes, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Loaded]:
    """Three workloads that stand still on one node, and an inventory that puts them in order."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    order = ", ".join(f'"{name}"' for name in NAMES)
    queue = f'{{ order = [{order}], gap = "100ms", ready_timeout = "10s" }}'
    path = tmp_path / "cluster.toml"
    path.write_text(cluster_toml(kubeconfig, queue))
    await nodes.add_node("gpu-1", 8)
    for name in NAMES:
        await nodes.add_deployment(name.partition("/")[2])
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield load(path)


async def replicas(nodes: Nodes, name: str) -> int:
    count: int = (await nodes.deployment(name))["spec"]["replicas"]
    return count


async def images(nodes: Nodes) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in await nodes.all("/api/v1/namespaces/llm/pods")]


async def test_three_are_let_in_one_by_one(nodes: Nodes, loaded: Loaded, tmp_path: Path) -> None:
    nodes.times.ready = 1.0
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: nodes.started, "the first to start")
    (lease,) = await nodes.all(LEASES)
    assert lease["metadata"]["annotations"]["tierdeck/procedure"] == procedure
    events = await ended(procedures, procedure)
    assert events[-1]["outcome"] == "done", events
    assert nodes.started == one_by_one()
    assert await nodes.all(LEASES) == []
    again, second = await begun(loaded, tmp_path)
    assert [e["event"] for e in await ended(again, second)].count("step_skipped") == 3
    assert len(nodes.started) == 6


async def test_killed_it_is_resumed_where_it_was(nodes: Nodes, loaded: Loaded, tmp_path: Path) -> None:
    nodes.times.ready = 2.0
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: ("running", "mistral") in nodes.started, "the second to start")
    os.kill(int(procedures.state(procedure).owner.rpartition(":")[2]), signal.SIGKILL)
    await until(lambda: procedures.state(procedure).state == "lost", "the runner to be gone")
    assert await replicas(nodes, "embed") == 0
    await procedures.resume(procedure)
    assert (await ended(procedures, procedure))[-1]["outcome"] == "done"
    assert nodes.started == one_by_one()


async def test_the_api_server_is_restarted_in_mid_queue(nodes: Nodes, loaded: Loaded, tmp_path: Path) -> None:
    nodes.times.ready = 3.0
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: ("running", "coder") in nodes.started, "the first to start")
    await asyncio.to_thread(nodes.plane.restart_api)
    events = await ended(procedures, procedure)
    assert events[-1]["outcome"] == "done", events
    assert nodes.started == one_by_one()


async def test_one_that_finds_no_gpu_says_who_holds_them(nodes: Nodes, loaded: Loaded, tmp_path: Path) -> None:
    await nodes.add_deployment("hog", 1, 8)
    await until(lambda: ("ready", "hog") in nodes.started, "the other to run")
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: procedures.state(procedure).state == "asking", "the halt")
    state = procedures.state(procedure)
    said = " ".join([state.question, *(step.detail for step in state.steps)])
    assert "Insufficient nvidia.com/gpu; held by hog" in said
    assert await replicas(nodes, "mistral") == 0
    await procedures.answer(procedure, "abort")


async def test_an_update_with_surge_is_let_in_pod_by_pod(nodes: Nodes, loaded: Loaded, tmp_path: Path) -> None:
    await nodes.patch("/api/v1/nodes/gpu-1/status", {"status": gpus("1")})
    await nodes.patch(f"{APPS}/deployments/coder", {"spec": {"replicas": 1}})
    await until(lambda: ("ready", "coder") in nodes.started, "it to run")
    template = (await nodes.deployment("coder"))["spec"]["template"]
    template["spec"]["containers"][0]["image"] = NEW
    await nodes.patch(f"{APPS}/deployments/coder", {"spec": {"template": template}})
    async with asyncio.timeout(20):
        while len(await images(nodes)) != 2:
            await asyncio.sleep(0.1)
    snapshot = await survey(loaded, None, tmp_path / "state")
    (coder,) = [w for w in snapshot.nodes["gpu-1"].workloads if w.name == "llm/coder"]
    assert coder.update == "1 of the former template still there"
    plan = plan_queue(loaded.inventory, snapshot, "gpu-1", only=["llm/coder"])
    assert [step.kind for step in plan.steps] == ["hold_update", "turn_over", "start_container"]
    nodes.started.clear()
    procedures, procedure = await begun(loaded, tmp_path, only=["llm/coder"])
    events = await ended(procedures, procedure)
    assert events[-1]["outcome"] == "done", events
    assert nodes.started == [("gone", "coder"), ("running", "coder"), ("ready", "coder")]
    assert await images(nodes) == [NEW]
    item = await nodes.deployment("coder")
    assert "paused" not in item["spec"]
    assert not [key for key in item["metadata"]["annotations"] if "tierdeck" in key]


def gpus(count: str) -> dict[str, Any]:
    return {"capacity": {"nvidia.com/gpu": count}, "allocatable": {"nvidia.com/gpu": count}}
