"""Rolling updates that somebody else began, let in pod by pod, and nodes that come back without a crowd."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.files import Loaded
from backends.procedures.away import Leaving
from backends.procedures.commands import Procedures
from backends.procedures.plan import Danger, Plan, describe
from backends.procedures.reboot import plan_reboot
from backends.procedures.recovery import after
from backends.procedures.standdown import stand_down_step
from backends.procedures.startup import plan_queue
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.cluster import KubernetesCluster
from backends.reach.kubernetes.runtime import KubernetesRuntime
from backends.reach.kubernetes.shapes import controller
from backends.world import survey
from tests.kubernetes.double import Double
from tests.kubernetes.store import KINDS
from tests.kubernetes.test_queue import begun, ended, loaded
from tests.kubernetes.test_seen import drawn
from tests.procedures.test_process import until

__all__ = ["loaded"]

NEW = "vllm/vllm-openai:v0.33.0"


@pytest.fixture
async def updated(double: Double, loaded: Loaded) -> Loaded:
    """One of three runs, on a node of one GPU, and somebody changed its template."""
    node = double.store.get(KINDS["nodes"], "", "gpu-1")
    for amounts in (node["status"]["capacity"], node["status"]["allocatable"]):
        amounts["nvidia.com/gpu"] = "1"
    double.store.touch(KINDS["nodes"], node)
    replicas(double, "coder", 1)
    await until(lambda: ("ready", "coder") in double.controllers.started, "it to run")
    double.update("coder", NEW)
    assert len(double.controllers.pods_of(double.deployment("coder"))) == 2
    return loaded


def replicas(double: Double, name: str, count: int) -> None:
    item = double.deployment(name)
    item["spec"]["replicas"] = count
    double.store.touch(KINDS["deployments"], item)
    double.controllers.reconcile()


def images(double: Double, name: str) -> list[str]:
    pods = double.controllers.pods_of(double.deployment(name))
    return [pod["spec"]["containers"][0]["image"] for pod in pods]


async def test_an_update_with_surge_is_let_in_pod_by_pod(double: Double, updated: Loaded, tmp_path: Path) -> None:
    snapshot = await survey(updated, None, tmp_path / "state")
    (coder,) = [w for w in snapshot.nodes["gpu-1"].workloads if w.name == "llm/coder"]
    assert coder.update == "1 of the former template still there"
    assert (coder.state, coder.health) == ("running", "healthy")
    assert any("updating" in line and coder.update in line for line in drawn(updated, snapshot))
    plan = plan_queue(updated.inventory, snapshot, "gpu-1", only=["llm/coder"])
    assert [step.kind for step in plan.steps] == ["hold_update", "turn_over", "start_container"]
    assert plan.danger is Danger.INTERRUPTS
    assert plan.blast.interrupts == ("llm/coder",)
    words = "\n".join(describe(plan))
    assert "kubectl rollout pause -n llm deployment/coder" in words
    assert "At its next update a second pod starts beside the first, past this queue: llm/coder" in words
    double.controllers.started.clear()
    procedures, procedure = await begun(updated, tmp_path, only=["llm/coder"])
    assert (await ended(procedures, procedure))[-1]["outcome"] == "done"
    assert images(double, "coder") == [NEW]
    assert [what for what, _ in double.controllers.started][-2:] == ["running", "ready"]
    assert ("gone", "coder") in double.controllers.started[:-2]
    item = double.deployment("coder")
    assert "paused" not in item["spec"]
    assert item["metadata"].get("annotations", {}) == {}
    again = await survey(updated, None, tmp_path / "state")
    assert plan_queue(updated.inventory, again, "gpu-1", only=["llm/coder"]).targets == ()


async def test_several_replicas_are_updated_one_by_one(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 3)
    await until(lambda: double.controllers.started.count(("ready", "coder")) == 3, "all to run")
    runtime = KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1")
    await runtime.hold_update("llm/coder")
    double.update("coder", NEW)
    assert NEW not in images(double, "coder")
    assert (await runtime.state("llm/coder")).update == "3 of the former template still there, paused"
    await runtime.stop("llm/coder")
    double.controllers.started.clear()
    double.controllers.most.clear()
    await runtime.start("llm/coder")
    await until(lambda: double.controllers.started.count(("ready", "coder")) == 3, "all to be new")
    assert double.controllers.started == [("running", "coder"), ("ready", "coder")] * 3
    assert double.controllers.most["coder"] == 3
    assert images(double, "coder") == [NEW] * 3


async def test_a_pause_of_somebody_elses_is_left_alone(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    await until(lambda: ("ready", "coder") in double.controllers.started, "it to run")
    item = copy.deepcopy(double.deployment("coder"))
    item["spec"]["paused"] = True
    double.store.replace(KINDS["deployments"], "llm", "coder", item)
    double.update("coder", NEW)
    runtime = KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1")
    assert (await runtime.state("llm/coder")).update == ""
    await runtime.stop("llm/coder")
    await runtime.start("llm/coder")
    assert double.deployment("coder")["spec"]["paused"] is True


STRATEGIES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}, True),
    ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, True),
    ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}, False),
    ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 1}}, False),
    ({"type": "Recreate"}, False),
]


@pytest.mark.parametrize(("strategy", "surges"), STRATEGIES)
def test_which_updates_start_a_second_beside_the_first(strategy: dict[str, Any], surges: bool) -> None:
    data = {"metadata": {"name": "a", "namespace": "llm"}, "spec": {"strategy": strategy}}
    assert controller(data, "deployment").surges is surges
    assert controller(data, "statefulset").surges is False


async def test_before_a_reboot_the_node_is_scaled_down(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    for name in ("coder", "mistral"):
        replicas(double, name, 1)
    double.add_deployment("other", 1)
    await until(lambda: len([e for e in double.controllers.started if e[0] == "ready"]) == 3, "all to run")
    snapshot = await survey(loaded, None, tmp_path / "state")
    plan = plan_reboot(loaded.inventory, snapshot, "gpu-1", "boot-1", Leaving())
    kinds = [step.kind for step in plan.steps]
    assert kinds[-6:-1] == ["stand_down", "reboot", "wait_kubernetes", "start_queue", "healthy"]
    assert plan.danger is Danger.INTERRUPTS
    assert plan.blast.interrupts == ("llm/coder", "llm/mistral")
    assert any("llm/other" in words for words in plan.warnings)


def ready(double: Double, *, word: str) -> None:
    """What the control plane says of the node: True, or Unknown while its kubelet is silent."""
    item = double.store.get(KINDS["nodes"], "", "gpu-1")
    item["status"]["conditions"][0] |= {"status": word, "message": "Kubelet stopped posting node status."}
    double.store.touch(KINDS["nodes"], item)


async def test_a_node_that_was_away_is_not_crowded(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    for name, count in (("coder", 2), ("mistral", 1)):
        replicas(double, name, count)
    await until(lambda: len([e for e in double.controllers.started if e[0] == "ready"]) == 3, "all to run")
    ready(double, word="Unknown")
    table = loaded.inventory.node_named["gpu-1"]
    steps = (stand_down_step(table, Danger.CHANGES, may_fail=True), *after(table))
    double.controllers.started.clear()
    procedures = Procedures(tmp_path / "state", loaded.path)
    procedure = await procedures.start(Plan("recovery", "gpu-1", "Recover gpu-1", steps))
    await until(lambda: double.controllers.started.count(("gone", "coder")) == 2, "the node to be scaled down")
    assert double.deployment("coder")["metadata"]["annotations"] == {"tierdeck/replicas": "2"}
    ready(double, word="True")
    events = await ended(procedures, procedure)
    assert events[-1]["outcome"] == "done"
    told = [event["detail"] for event in events if event["event"] == "step_done" and event["step"] == 0]
    assert told == [{"text": "scaled down: llm/coder, llm/mistral"}]
    came = [each for each in double.controllers.started if each[0] != "gone"]
    assert came == [(what, n) for n in ("coder", "coder", "mistral", "embed") for what in ("running", "ready")]
    assert double.deployment("coder")["metadata"]["annotations"] == {}


async def test_only_what_runs_on_the_node_alone_is_scaled_down(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 3)
    double.add_deployment("here", 2)
    double.add_deployment("spread", 2)
    cluster = KubernetesCluster(api, ["llm"])
    runtime = KubernetesRuntime(cluster, "gpu-1")
    await until(lambda: len([e for e in double.controllers.started if e[0] == "ready"]) == 3, "three to run")
    assert [p["spec"].get("nodeName") for p in double.controllers.pods_of(double.deployment("spread"))].count(None) == 1
    double.add_node("gpu-2", 1)
    double.controllers.reconcile()
    await until(lambda: len([e for e in double.controllers.started if e[0] == "ready"]) == 4, "the last to run")
    double.add_deployment("waits", 1)
    assert await runtime.lower(["llm/here", "llm/spread", "llm/waits", "llm/none"]) == ("llm/here",)
    assert double.deployment("here")["spec"]["replicas"] == 0
    assert double.deployment("spread")["spec"]["replicas"] == 2
    replicas(double, "here", 9)
    pods, controllers = cluster._pods[0].objects, cluster._controllers[0].objects
    placed = {"", "gpu-1"}
    await until(lambda: {p.node for p in pods.values() if p.owner == "llm/here"} == placed, "the pods to be seen")
    await until(lambda: controllers["llm/here"].replicas == 9, "the replicas to be seen")
    assert await runtime.lower(["llm/here"]) == ("llm/here",), "what waits for a node is no hindrance"
    await cluster.close()
