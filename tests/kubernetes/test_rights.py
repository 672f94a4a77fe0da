"""Our rights in a cluster: asked once for each namespace, and again after a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import ProcedureError, RuntimeFailure
from backends.procedures.startup import plan_queue
from backends.reach.kubernetes import rights
from backends.reach.kubernetes.api import KubernetesApi
from backends.world import survey
from tests.kubernetes.double import Double
from tests.kubernetes.test_seen import inventory, runtime_of

SCALE, LOG = ("llm", "update", "deployments/scale"), ("llm", "get", "pods/log")
MAY_NOT = "may not: update deployments/scale.apps in llm"


async def test_each_right_is_asked_about_once(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    for name in ("coder", "mistral"):
        double.add_deployment(name, 1)
    double.add_deployment("cache", 1, kind="statefulsets")
    double.forbidden |= {("get", "pods/log")}
    cluster, runtime = runtime_of(api)
    for _ in range(3):
        found = await runtime.workloads()
    assert sorted(double.reviews) == [LOG, SCALE, ("llm", "update", "statefulsets/scale")]
    assert {w.forbids("logs") for w in found} == {"may not: get pods/log in llm"}
    assert {w.forbids("start") for w in found} == {""}
    await cluster.close()


async def test_after_a_refusal_it_is_asked_again(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    cluster, runtime = runtime_of(api)
    assert [w.forbids("start") for w in await runtime.workloads()] == [""]
    double.forbidden |= {("update", "deployments/scale")}
    assert [w.forbids("start") for w in await runtime.workloads()] == [""]
    with pytest.raises(RuntimeFailure, match="may not: update"):
        await runtime.start("llm/coder")
    assert [w.forbids("start") for w in await runtime.workloads()] == [MAY_NOT]
    assert double.reviews.count(SCALE) == 2
    await cluster.close()


async def test_a_right_that_was_missing_is_asked_about_again_later(
    double: Double, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    double.forbidden |= {("update", "deployments/scale")}
    cluster, runtime = runtime_of(api)
    assert [w.forbids("start") for w in await runtime.workloads()] == [MAY_NOT]
    double.forbidden.clear()
    assert [w.forbids("start") for w in await runtime.workloads()] == [MAY_NOT]
    monkeypatch.setattr(rights, "AGAIN", 0.0)
    assert [w.forbids("start") for w in await runtime.workloads()] == [""]
    await cluster.close()


async def test_where_the_api_does_not_say_nothing_is_forbidden(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    double.forbidden |= {("create", "selfsubjectaccessreviews")}
    cluster, runtime = runtime_of(api)
    for _ in range(3):
        assert [w.forbidden for w in await runtime.workloads()] == [()]
    assert len(double.reviews) == 2
    await cluster.close()


async def test_no_queue_is_planned_for_what_may_not_be_started(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    for name in ("coder", "mistral"):
        double.add_deployment(name)
    double.forbidden |= {("update", "deployments/scale")}
    loaded = inventory(tmp_path, double)
    snapshot = await survey(loaded, None, tmp_path / "state")
    with pytest.raises(ProcedureError, match=f"{MAY_NOT}, so llm/coder cannot be started"):
        plan_queue(loaded.inventory, snapshot, "gpu-1")
