"""The start queue of a Kubernetes node: three workloads let in one by one, by a runner that may be killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from backends.cluster.files import Loaded
from backends.errors import ProcedureError, RuntimeFailure
from backends.procedures.commands import Procedures
from backends.procedures.plan import describe
from backends.procedures.startup import plan_queue
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.cluster import KubernetesCluster
from backends.reach.kubernetes.lease import LeaseObject
from backends.reach.kubernetes.runtime import KubernetesRuntime
from backends.reach.lease import Holder, NoPlace
from backends.world import survey
from tests.kubernetes.double import Double
from tests.kubernetes.inventories import cluster_toml
from tests.kubernetes.store import KINDS, Refused
from tests.procedures.test_process import ROOT, until

NAMES = ("llm/coder", "llm/mistral", "llm/embed")


@pytest.fixture
async def loaded(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Loaded]:
    """Three workloads that stand still on one node, and an inventory that puts them in order."""
    from backends.cluster.files import load

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "cluster.toml"
    order = ", ".join(f'"{name}"' for name in NAMES)
    queue = f'{{ order = [{order}], gap = "100ms", ready_timeout = "3s" }}'
    path.write_text(cluster_toml(double.kubeconfig(tmp_path), queue))
    double.add_node("gpu-1", 8)
    for name in NAMES:
        double.add_deployment(name.partition("/")[2])
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield load(path)


async def begun(loaded: Loaded, folder: Path, **options: Any) -> tuple[Procedures, str]:
    snapshot = await survey(loaded, None, folder / "state")
    plan = plan_queue(loaded.inventory, snapshot, "gpu-1", **options)
    procedures = Procedures(folder / "state", loaded.path)
    return procedures, await procedures.start(plan)


async def ended(procedures: Procedures, procedure: str, *, limit: float = 30.0) -> list[dict[str, Any]]:
    async with asyncio.timeout(limit):
        return [event.to_json() async for event in procedures.attach(procedure)]


def one_by_one() -> list[tuple[str, str]]:
    bare = [name.partition("/")[2] for name in NAMES]
    return [(what, name) for name in bare for what in ("running", "ready")]


async def test_three_workloads_are_let_in_one_by_one(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    snapshot = await survey(loaded, None, tmp_path / "state")
    plan = plan_queue(loaded.inventory, snapshot, "gpu-1")
    assert plan.targets == NAMES
    assert "kubectl scale --replicas=1 -n llm deployment/coder" in "\n".join(describe(plan))
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: double.store.all("leases"), "the lease")
    lease = double.store.all("leases")[0]
    assert lease["metadata"]["annotations"]["tierdeck/procedure"] == procedure
    events = await ended(procedures, procedure)
    assert events[-1]["outcome"] == "done"
    assert events[0]["detail"]["lease"] == "the Lease tierdeck-gpu-1 in home"
    assert double.controllers.started == one_by_one()
    await until(lambda: not double.store.all("leases"), "the lease to be given back")
    again, second = await begun(loaded, tmp_path)
    events = await ended(again, second)
    assert [e["event"] for e in events if e["event"] == "step_skipped"] == ["step_skipped"] * 3
    assert len(double.controllers.started) == 6


async def test_a_killed_runner_is_resumed_where_it_was(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.controllers.times.ready = 1.0
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: ("running", "mistral") in double.controllers.started, "the second to start")
    os.kill(int(procedures.state(procedure).owner.rpartition(":")[2]), signal.SIGKILL)
    await until(lambda: procedures.state(procedure).state == "lost", "the runner to be gone")
    assert double.store.all("leases")
    await asyncio.sleep(0.3)
    assert ("running", "embed") not in double.controllers.started
    double.controllers.times.ready = 0.1
    await procedures.resume(procedure)
    events = await ended(procedures, procedure)
    assert events[-1]["outcome"] == "done"
    assert double.controllers.started == one_by_one()


async def test_one_that_hangs_holds_the_others_back(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.controllers.broken["mistral"] = "hang"
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: procedures.state(procedure).state == "asking", "the halt")
    assert "mistral" in procedures.state(procedure).question
    assert double.deployment("embed")["spec"]["replicas"] == 0
    await procedures.answer(procedure, "abort")


async def halted(double: Double, loaded: Loaded, folder: Path) -> str:
    """Run the queue to where it halts; what it says then."""
    procedures, procedure = await begun(loaded, folder)
    await until(lambda: procedures.state(procedure).state == "asking", "the halt")
    state = procedures.state(procedure)
    await procedures.answer(procedure, "abort")
    return " ".join([state.question, *(step.detail for step in state.steps)])


async def test_a_quota_is_named_before_anything_is_changed(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.controllers.quota = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 2, limited: 2"
    said = await halted(double, loaded, tmp_path)
    assert "exceeded quota gpus, requested: requests.nvidia.com/gpu=1" in said
    assert all(double.deployment(n.partition("/")[2])["spec"]["replicas"] == 0 for n in NAMES)


async def test_an_admission_rule_is_named_before_anything_is_changed(
    double: Double, loaded: Loaded, tmp_path: Path
) -> None:
    def refuse(pod: dict[str, Any]) -> None:
        message = 'admission webhook "policy.example.com" denied the request: no latest tags'
        raise Refused(400, "BadRequest", message)

    double.admission = refuse
    assert "refused by policy.example.com: no latest tags" in await halted(double, loaded, tmp_path)
    assert double.deployment("coder")["spec"]["replicas"] == 0


async def test_one_that_is_deleted_in_mid_queue_is_named(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.controllers.broken["coder"] = "hang"
    procedures, procedure = await begun(loaded, tmp_path)
    await until(lambda: ("running", "coder") in double.controllers.started, "the first to start")
    double.store.delete(KINDS["deployments"], "llm", "coder")
    await until(lambda: procedures.state(procedure).state == "asking", "the halt")
    assert "llm/coder is not there any more" in procedures.state(procedure).question
    assert double.deployment("mistral")["spec"]["replicas"] == 0
    await procedures.answer(procedure, "abort")


async def test_watches_that_drop_and_outdate_in_mid_queue_lose_nothing(
    double: Double, loaded: Loaded, tmp_path: Path
) -> None:
    double.controllers.times.ready = 0.5
    double.slow = 0.05
    procedures, procedure = await begun(loaded, tmp_path)
    for name in ("coder", "mistral"):
        await until(lambda name=name: ("running", name) in double.controllers.started, f"{name} to start")
        double.store.compact()
        double.store.drop()
    assert (await ended(procedures, procedure))[-1]["outcome"] == "done"
    assert double.controllers.started == one_by_one()


async def test_a_pod_that_finds_no_node_says_why(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.add_deployment("hog", 1, 8)
    said = await halted(double, loaded, tmp_path)
    assert "Insufficient nvidia.com/gpu; held by hog" in said


# -- the runtime and the lease alone -----------------------------------------------------------------------------------


async def test_a_conflict_is_retried_from_a_fresh_read(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    runtime = KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1")
    double.conflicts = 3
    await runtime.start("llm/coder")
    assert double.deployment("coder")["spec"]["replicas"] == 1
    assert (await runtime.state("llm/coder")).name == "llm/coder"
    double.conflicts = 2
    await runtime.stop("llm/coder")
    assert double.deployment("coder")["spec"]["replicas"] == 0
    assert double.controllers.pods_of(double.deployment("coder")) == []
    double.conflicts = 99
    with pytest.raises(RuntimeFailure, match="Somebody else changed it at the same time"):
        await runtime.start("llm/coder")
    assert (await runtime.state("llm/none")).state == "missing"
    with pytest.raises(RuntimeFailure, match="has no workload coder"):
        await runtime.start("coder")


async def test_several_replicas_come_back_one_by_one(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 3)
    runtime = KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1")
    await runtime.stop("llm/coder")
    assert (await runtime.state("llm/coder")).error == "no replicas"
    double.controllers.started.clear()
    double.controllers.times.ready = 0.5
    begun = asyncio.create_task(runtime.start("llm/coder"))
    await until(lambda: ("ready", "coder") in double.controllers.started, "the first to be ready")
    begun.cancel()
    await asyncio.gather(begun, return_exceptions=True)
    state = await runtime.state("llm/coder")
    assert (state.state, state.error) == ("created", "1 of 3 replicas")
    await runtime.start("llm/coder")
    await until(lambda: double.controllers.started.count(("ready", "coder")) == 3, "all to be ready")
    assert double.controllers.started == [("running", "coder"), ("ready", "coder")] * 3
    assert double.deployment("coder")["metadata"]["annotations"] == {}
    assert (await runtime.state("llm/coder")).health == "healthy"


async def test_who_may_not_create_pods_may_start_all_the_same(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", kind="statefulsets")
    double.forbidden.add(("create", "pods"))
    runtime = KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1")
    await runtime.start("llm/statefulset/coder")
    double.forbidden.add(("update", "statefulsets/scale"))
    with pytest.raises(RuntimeFailure, match=r"may not: update statefulsets/scale\.apps in llm"):
        await runtime.stop("llm/statefulset/coder")


async def test_the_rehearsed_pod_of_a_statefulset_has_its_volumes(double: Double, api: KubernetesApi) -> None:
    seen: list[dict[str, Any]] = []
    double.admission = seen.append
    double.add_node("gpu-1", 8)
    double.add_deployment("cache", kind="statefulsets")
    item = double.store.get(KINDS["statefulsets"], "llm", "cache")
    item["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "models"}}]
    await KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1").start("llm/statefulset/cache")
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": "models-cache-0"}}
    assert seen[0]["spec"]["volumes"] == [volume]
    assert item["spec"]["replicas"] == 0
    assert double.store.get(KINDS["statefulsets"], "llm", "cache")["spec"]["replicas"] == 1


async def test_a_rule_that_knows_no_dry_run_hinders_nobody(double: Double, api: KubernetesApi) -> None:
    def refuse(pod: dict[str, Any]) -> None:
        raise Refused(400, "BadRequest", 'admission webhook "old.example.com" does not support dry run')

    double.admission = refuse
    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    await KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1").start("llm/coder")
    assert double.deployment("coder")["spec"]["replicas"] == 1


def holder(token: str) -> Holder:
    return Holder("ops@desk:1", "desk", "p1", "gpu-1", token)


async def test_of_twenty_racers_one_has_the_lease(double: Double, api: KubernetesApi) -> None:
    place = LeaseObject(KubernetesCluster(api, ["llm"]), "gpu-1")
    won = await asyncio.gather(*(place.create(holder(str(n))) for n in range(20)))
    assert won.count(True) == 1
    token = str(won.index(True))
    seen = await place.look()
    assert seen is not None
    assert (seen.holder, seen.stale) == (holder(token), False)
    double.conflicts = 2
    assert await place.beat(token)
    assert not await place.beat("other")
    assert await place.token() == token
    assert not await place.clear("other")
    assert await place.clear(token)
    assert await place.look() is None
    assert not await place.beat(token)


async def test_a_lease_is_as_old_as_the_api_says(double: Double, api: KubernetesApi) -> None:
    place = LeaseObject(KubernetesCluster(api, ["llm"]), "gpu-1")
    assert await place.create(holder("a"))
    lease = double.store.all("leases")[0]
    lease["spec"] |= {"renewTime": "2020-01-01T00:00:00.000000Z", "acquireTime": "2019-01-01T00:00:00.000000Z"}
    double.store.touch(KINDS["leases"], lease)
    seen = await place.look()
    assert seen is not None
    assert seen.stale
    assert seen.held > seen.silent > 1e8


async def test_where_leases_are_forbidden_there_is_no_place(double: Double, api: KubernetesApi) -> None:
    place = LeaseObject(KubernetesCluster(api, ["llm"]), "gpu-1")
    double.forbidden |= {("get", "leases")}
    with pytest.raises(NoPlace, match=r"may not: get leases\.coordination\.k8s\.io in llm"):
        await place.create(holder("a"))


async def test_two_queues_of_one_node_do_not_run_side_by_side(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.controllers.times.ready = 60.0
    first, procedure = await begun(loaded, tmp_path)
    with pytest.raises(ProcedureError, match="one procedure per node at a time"):
        await begun(loaded, tmp_path / "other")
    await first.cancel(procedure)
    await first.cancel(procedure)
