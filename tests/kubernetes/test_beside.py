"""What is told of workloads beside their state: volumes, autoscalers, events, scanners' reports; and where it shows."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiohttp import web

from backends.cluster.changes import changes
from backends.cluster.noted import Notice, Scan, Volume
from backends.cluster.reading import Workload
from backends.cluster.registry import registry_json
from backends.cluster.report import status_json, status_text
from backends.doctor.nodes import examine_node
from backends.linting import lint_all
from backends.reach.kubernetes import shapes
from backends.reach.kubernetes.notices import Happening, happening, notices
from backends.reach.kubernetes.quantities import quantity
from backends.reach.kubernetes.scaling import scaling
from backends.reach.kubernetes.volumes import Fill, counted, volumes
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from backends.world import World, survey
from tests.cli.test_status import SHAPE
from tests.kubernetes.double import Double
from tests.kubernetes.inventories import CODER
from tests.kubernetes.store import KINDS, KUBESCAPE, TRIVY
from tests.kubernetes.test_seen import drawn, inventory
from tests.kubernetes.test_words import deployment
from tests.reach.conftest import until
from tui.details import details

GIB = 2**30


def text_of(loaded: Any, snapshot: Any, key: str) -> str:
    return "\n".join("".join(t for t, _ in line.spans) for line in details(loaded.inventory, snapshot, key, 100))


def summary(*claims: tuple[str, int, int]) -> dict[str, Any]:
    """A kubelet's stats/summary, with one pod that uses some claims."""
    told = [
        {"name": "v", "usedBytes": used, "capacityBytes": size, "availableBytes": size - used,
         "pvcRef": {"name": name, "namespace": "llm"}} for name, used, size in claims
    ]  # fmt: skip
    return {"node": {}, "pods": [{"podRef": {"name": "coder-x", "namespace": "llm"}, "volume": [*told, {"name": "t"}]}]}


def kubelet(*claims: tuple[str, int, int]) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.path == "/api/v1/nodes/gpu-1/proxy/stats/summary"
        return web.json_response(summary(*claims))

    return answer


def add_caching(double: Double, name: str = "coder") -> None:
    """A workload that keeps its model on a claim of 100 GiB."""
    double.add_node("gpu-1", 8)
    claim = {"metadata": {"name": "cache"}, "spec": {"resources": {"requests": {"storage": "100Gi"}}}}
    claim["status"] = {"phase": "Bound", "capacity": {"storage": "100Gi"}}
    double.store.create(KINDS["persistentvolumeclaims"], "llm", claim)
    double.add_deployment(name, 0, volumes=[{"name": "m", "persistentVolumeClaim": {"claimName": "cache"}}])
    item = double.deployment(name)
    item["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "m", "mountPath": "/models"}]
    item["spec"]["replicas"] = 1
    double.store.touch(KINDS["deployments"], item)
    double.controllers.reconcile()


async def test_how_full_a_models_volume_is(double: Double, tmp_path: Path) -> None:
    add_caching(double)
    double.services["gpu-1"] = kubelet(("cache", 61 * GIB, 100 * GIB))
    loaded = inventory(tmp_path, double)
    await until(lambda: bool(double.controllers.started))
    snapshot = await survey(loaded, None, tmp_path / "state")
    (workload,) = snapshot.nodes["gpu-1"].workloads
    assert workload.volumes == (Volume("cache", 102400.0, 62464.0),)
    for key in ("container:gpu-1/llm/coder", "node:gpu-1"):
        assert "cache: 61.0 of 100.0 GiB" in text_of(loaded, snapshot, key)
    told = status_json(loaded.inventory, snapshot)["nodes"][0]["workloads"][0]
    assert (told["volumes"][0]["used_mib"], told["name"]) == (62464.0, "llm/coder")


async def test_a_kubelet_that_may_not_be_asked(double: Double, tmp_path: Path) -> None:
    add_caching(double)
    double.forbidden.add(("get", "nodes/proxy"))
    await until(lambda: bool(double.controllers.started))
    snapshot = await survey(inventory(tmp_path, double), None, tmp_path / "state")
    (volume,) = snapshot.nodes["gpu-1"].workloads[0].volumes
    assert volume.words == "cache: 100.0 GiB, fill not known (may not: get nodes/proxy)"


async def test_a_models_row_tells_its_volume(double: Double, tmp_path: Path) -> None:
    async def engine(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/v1/models"):
            return web.json_response({"object": "list", "data": [{"id": "q", "object": "model"}]})
        return web.Response(text="")

    add_caching(double)
    double.services |= {"gpu-1": kubelet(("cache", 61 * GIB, 100 * GIB)), "coder:8000": engine}
    loaded = inventory(tmp_path, double, CODER)
    await until(lambda: bool(double.controllers.started))
    snapshot = await survey(loaded, None, tmp_path / "state")
    (row,) = registry_json(loaded.inventory, snapshot)["models"]
    assert (row["name"], row["volume"]) == ("q", "cache: 61.0 of 100.0 GiB")


CLAIM = {"llm/cache": shapes.Claim("llm/cache", "Bound", "100Gi")}
FILLS = [
    ({"llm/cache": Fill(61.0 * GIB, 95.0 * GIB)}, "cache: 61.0 of 100.0 GiB"),
    ({"llm/cache": Fill(812.0 * GIB, 1800.0 * GIB)},
     "cache: 100.0 GiB claimed, on a disk filled with 812.0 of 1800.0 GiB"),
    ({"n1": Fill(trouble="may not: get nodes/proxy")}, "cache: 100.0 GiB, fill not known (may not: get nodes/proxy)"),
    ({}, "cache: 100.0 GiB"),
]  # fmt: skip


@pytest.mark.parametrize(("filled", "words"), FILLS, ids=["own", "shared disk", "may not", "not mounted"])
def test_fills_in_words(filled: dict[str, Fill], words: str) -> None:
    main = {"volumeMounts": [{"name": "m", "mountPath": "/m"}, {"name": "shm", "mountPath": "/dev/shm"}]}
    what = deployment(main=main, volumes=[{"name": "m", "persistentVolumeClaim": {"claimName": "cache"}}])
    (found,) = volumes(what, CLAIM, filled, ("n1",))
    assert found.words == words


def test_a_summary_of_anything_is_no_fill() -> None:
    assert counted({"pods": [{"volume": [{"pvcRef": {"name": "x"}}, {"usedBytes": 3}, 4]}, None]}) == {}
    assert counted({"pods": "x"}) == counted({}) == {}


@pytest.mark.parametrize(
    ("text", "number"),
    [("100Gi", 100 * GIB), ("7500m", 7.5), ("1k", 1000.0), ("7", 7.0), ("1.5", 1.5), ("2e3", 2000.0), ("x", None),
     ("", None), ("1KiB", None), (None, None), (3, 3.0)],
)  # fmt: skip
def test_quantities(text: object, number: float | None) -> None:
    assert quantity(text) == pytest.approx(number)


# -- autoscalers -------------------------------------------------------------------------------------------------------


def autoscaler(*metrics: tuple[dict[str, Any], dict[str, Any] | None], **status: Any) -> dict[str, Any]:
    """A HorizontalPodAutoscaler of llm/coder, with the metrics it wants and those it sees."""
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "coder"},
        "minReplicas": 1, "maxReplicas": 4, "metrics": [wanted for wanted, _ in metrics],
    }  # fmt: skip
    told = {
        "currentReplicas": 2,
        "desiredReplicas": 2,
        "currentMetrics": [seen for _, seen in metrics if seen],
        **status,
    }
    return {"metadata": {"name": "coder", "namespace": "llm"}, "spec": spec, "status": told}


def per_pod(name: str, now: str, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    metric = {"metric": {"name": name}}
    return (
        {"type": "Pods", "pods": {**metric, "target": {"type": "AverageValue", "averageValue": target}}},
        {"type": "Pods", "pods": {**metric, "current": {"averageValue": now}}},
    )


WAITING = per_pod("vllm:num_requests_waiting", "7", "5")
CPU = (
    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 31, "averageValue": "310m"}}},
)
OUTER = (
    {"type": "External", "external": {"metric": {"name": "queue_depth"}, "target": {"type": "Value", "value": "30"}}},
    None,
)
INACTIVE = {"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric", "message": "no metrics API"}
LIMITED = {"type": "ScalingLimited", "status": "True", "reason": "TooManyReplicas", "message": "more than the maximum"}
SCALERS = [
    (autoscaler(WAITING), "2 of 1-4, waiting 7 of 5 per pod"),
    (autoscaler(per_pod("tokens_per_second", "812500m", "1k")), "2 of 1-4, tokens/s 812 of 1000 per pod"),
    (autoscaler(CPU, WAITING), "2 of 1-4, cpu 31% of 80%, waiting 7 of 5 per pod"),
    (autoscaler(OUTER), "2 of 1-4, waiting ? of 30"),
    (autoscaler((WAITING[0], None), conditions=[INACTIVE]),
     "2 of 1-4, waiting ? of 5 per pod, cannot scale: no metrics API"),
    (autoscaler(WAITING, conditions=[LIMITED]), "2 of 1-4, waiting 7 of 5 per pod, would have more"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), SCALERS)
def test_autoscalers_in_words(data: dict[str, Any], words: str) -> None:
    found = scaling(data)
    assert found is not None
    assert (found.target, found.words) == ("llm/coder", words)


def test_an_autoscaler_of_something_else() -> None:
    data = autoscaler()
    data["spec"]["scaleTargetRef"] = {"kind": "Rollout", "name": "coder"}
    assert scaling(data) is None
    data["spec"]["scaleTargetRef"] = {"kind": "StatefulSet", "name": "cache"}
    found = scaling(data)
    assert found is not None
    assert found.target == "llm/statefulset/cache"


async def test_an_autoscaler_is_watched(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    data = autoscaler(WAITING)
    made = double.store.create(KINDS["horizontalpodautoscalers"], "llm", data)
    loaded = inventory(tmp_path, double)
    await until(lambda: ("ready", "coder") in double.controllers.started)
    snapshot = await survey(loaded, None, tmp_path / "state")
    words = "2 of 1-4, waiting 7 of 5 per pod"
    assert any("llm/coder" in line and words in line for line in drawn(loaded, snapshot))
    assert words in text_of(loaded, snapshot, "container:gpu-1/llm/coder")
    async with World(loaded, None, tmp_path / "state") as world:
        (source,) = [s for s in world.sources() if s.key == "machine gpu-1"]
        await source.read()
        made["status"]["currentReplicas"] = 3
        double.store.touch(KINDS["horizontalpodautoscalers"], made)
        async with asyncio.timeout(5):
            while not (await source.read())[0][1].workloads[0].scaling.startswith("3 of"):  # type: ignore[union-attr]
                await asyncio.sleep(0.01)


# -- events ------------------------------------------------------------------------------------------------------------


def event(
    kind: str, name: str, reason: str = "BackOff", at: str = "2026-11-21T10:00:00Z", **more: Any
) -> dict[str, Any]:
    about = {"kind": kind, "namespace": "llm", "name": name}
    return {"metadata": {"name": f"{name}.1", "namespace": "llm"}, "involvedObject": about, "reason": reason,
            "message": "words", "type": "Warning", "lastTimestamp": at, **more}  # fmt: skip


KNOWN = {"llm/coder", "llm/statefulset/cache", "llm/coder-two"}
OWNERS = [
    ("Pod", "coder-5d4f6b7c8-x7k9p", "llm/coder"),
    ("Pod", "coder-two-5d4f6b7c8-x7k9p", "llm/coder-two"),
    ("Pod", "cache-0", "llm/statefulset/cache"),
    ("ReplicaSet", "coder-5d4f6b7c8", "llm/coder"),
    ("Deployment", "coder", "llm/coder"),
    ("StatefulSet", "cache", "llm/statefulset/cache"),
    ("HorizontalPodAutoscaler", "cache", "llm/statefulset/cache"),
    ("Pod", "web-5d4f6b7c8-x7k9p", None),
    ("Node", "coder", None),
]


@pytest.mark.parametrize(("kind", "name", "owner"), OWNERS)
def test_whose_an_event_is(kind: str, name: str, owner: str | None) -> None:
    found = happening(event(kind, name), KNOWN)
    assert (found and found.owner) == owner


def test_when_an_event_was_in_all_its_shapes() -> None:
    times = (
        {"lastTimestamp": None, "eventTime": "2026-11-21T11:00:00.000000Z"},
        {"lastTimestamp": None, "eventTime": "2026-11-21T10:00:00.000000Z",
         "series": {"count": 3, "lastObservedTime": "2026-11-21T11:00:00.000000Z"}},
        {"lastTimestamp": None, "firstTimestamp": "2026-11-21T11:00:00Z"},
    )  # fmt: skip
    for shape in times:
        found = happening(event("Deployment", "coder", **shape), KNOWN)
        assert found is not None
        assert found.notice.at == 1795258800.0


def test_what_is_said_again_stands_once_and_the_newest_first() -> None:
    def said(at: float, words: str) -> Happening:
        return Happening("llm/coder", Notice(at, words, "x"))

    found = notices("llm/coder", [said(1, "Old"), said(5, "BackOff"), said(3, "BackOff"), said(4, "Pulled")])
    assert [(each.reason, each.at) for each in found] == [("BackOff", 5), ("Pulled", 4), ("Old", 1)]
    assert len(notices("llm/coder", [said(n, f"R{n}") for n in range(9)])) == 5
    assert notices("llm/other", [said(1, "Old")]) == ()


async def test_events_come_by_themselves_and_into_the_log(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    double.add_deployment("web", 1, 0)
    await until(lambda: bool(double.controllers.started))
    double.controllers.event(double.pod_of("coder"), "FailedMount", "old words")
    loaded = inventory(tmp_path, double)
    before = await survey(loaded, None, tmp_path / "state")
    assert before.nodes["gpu-1"].workloads[0].notices[0].words == "FailedMount: old words"
    assert "FailedMount: old words" in text_of(loaded, before, "container:gpu-1/llm/coder")
    async with World(loaded, None, tmp_path / "state") as world:
        (source,) = [s for s in world.sources() if s.key == "machine gpu-1"]
        await source.read()
        double.controllers.event(double.pod_of("web"), "BackOff", "of no interest")
        double.controllers.event(double.pod_of("coder"), "Unhealthy", "Startup probe failed")
        async with asyncio.timeout(5):
            while len((found := (await source.read())[0][1].workloads[0]).notices) < 2:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
    node = replace(before.nodes["gpu-1"], workloads=(found,))
    after = replace(before, nodes={"gpu-1": node})
    assert [(c.subject, c.text, c.word) for c in changes(before, after)] == [
        ("gpu-1", "llm/coder: Unhealthy: Startup probe failed", "DEGRADED")
    ]
    assert changes(after, after) == []
    unread = replace(before, nodes={"gpu-1": replace(node, workloads_taken=None, workloads=())})
    assert changes(unread, after) == []


# -- scanners ----------------------------------------------------------------------------------------------------------


def reports(name: str, made: str) -> list[tuple[str, dict[str, Any]]]:
    """What both scanners say of a Deployment, the ReplicaSet `made` of it, its Service, and another workload."""

    def labelled(prefix: str, kind: str, named: str) -> dict[str, str]:
        return {f"{prefix}kind": kind, f"{prefix}name": named}

    trivy, kubescape = "trivy-operator.resource.", "kubescape.io/workload-"
    counts = {"criticalCount": 12, "highCount": 40, "mediumCount": 90, "lowCount": 3}
    vulnerable = {"artifact": {"repository": "vllm/vllm-openai", "tag": "v0.11"}, "summary": counts}
    audited = {"summary": {"criticalCount": 0, "highCount": 2, "mediumCount": 5, "lowCount": 7}}
    severe = {"critical": {"all": 9, "relevant": 1}, "high": {"all": 30}, "medium": {"all": 1}, "low": {}}
    image = {"kubescape.io/image-tag": "images.example/vllm/vllm-openai:v0.11"}
    rows: tuple[tuple[str, dict[str, str], dict[str, Any]], ...] = (
        ("vulnerabilityreports", labelled(trivy, "ReplicaSet", made), {"report": vulnerable}),
        ("vulnerabilityreports", labelled(trivy, "ReplicaSet", "other-1"), {"report": vulnerable}),
        ("configauditreports", labelled(trivy, "ReplicaSet", made), {"report": audited}),
        ("configauditreports", labelled(trivy, "Service", name), {"report": vulnerable}),
        ("vulnerabilitymanifestsummaries", labelled(kubescape, "Deployment", name), {"spec": {"severities": severe}}),
        ("workloadconfigurationscansummaries", labelled(kubescape, "Deployment", name),
         {"spec": {"severities": {"critical": 0, "high": 0, "medium": 4, "low": 1, "unknown": 0}}}),
    )  # fmt: skip
    return [
        (plural, {"metadata": {"name": f"r{number}", "labels": labels, "annotations": image}, **data})
        for number, (plural, labels, data) in enumerate(rows)
    ]


def add_reports(double: Double, name: str = "coder") -> None:
    """What both scanners say of a workload."""
    double.installed |= {TRIVY, KUBESCAPE}
    made = double.pod_of(name)["metadata"]["ownerReferences"][0]["name"]
    for plural, report in reports(name, made):
        double.store.create(KINDS[plural], "llm", report)


FOUND = [
    ("trivy-operator", "12 critical, 40 high in vllm/vllm-openai:v0.11"),
    ("trivy-operator", "2 high, 5 medium in its configuration"),
    ("kubescape", "9 critical, 30 high in images.example/vllm/vllm-openai:v0.11"),
    ("kubescape", "4 medium, 1 low in its configuration"),
]


async def test_what_scanners_found(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    add_reports(double)
    loaded = inventory(tmp_path, double)
    snapshot = await survey(loaded, None, tmp_path / "state")
    (workload,) = snapshot.nodes["gpu-1"].workloads
    assert [(scan.scanner, scan.words) for scan in workload.scans] == FOUND
    assert FOUND[0][1] in text_of(loaded, snapshot, "container:gpu-1/llm/coder")
    status = json.loads(json.dumps(status_json(loaded.inventory, snapshot)))
    jsonschema.Draft202012Validator(SHAPE).validate(status)
    told = status["nodes"][0]["workloads"][0]["findings"]
    assert (told[0]["critical"], told[0]["kind"], told[0]["scanner"]) == (12, "vulnerabilities", "trivy-operator")
    assert f"llm/coder  {FOUND[0][1]}  (trivy-operator)" in list(status_text(loaded.inventory, snapshot))
    async with Reaches(loaded.inventory, None, Secrets()) as reaches:
        linted = await lint_all(loaded.inventory, reaches)
    assert (linted.containers, dict(linted.troubles)) == (1, {})
    assert [(r.rule, r.node, r.container, r.message) for r in linted.remarks] == [
        ("vulnerabilities", "gpu-1", "llm/coder", f"{FOUND[0][1]} (by trivy-operator)"),
        ("configuration", "gpu-1", "llm/coder", f"{FOUND[1][1]} (by trivy-operator)"),
        ("vulnerabilities", "gpu-1", "llm/coder", f"{FOUND[2][1]} (by kubescape)"),
    ]


async def test_where_no_scanner_is_installed_none_is_asked(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    snapshot = await survey(inventory(tmp_path, double), None, tmp_path / "state")
    assert snapshot.nodes["gpu-1"].workloads[0].scans == ()
    assert [path for _, path in double.requests if path.strip("/") == "apis"]
    assert not [path for _, path in double.requests if TRIVY in path or KUBESCAPE in path]


async def test_reports_that_may_not_be_read_are_told(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    add_reports(double)
    double.forbidden |= {("list", "vulnerabilityreports"), ("get", "workloadconfigurationscansummaries")}
    snapshot = await survey(inventory(tmp_path, double), None, tmp_path / "state")
    words = [scan.words for scan in snapshot.nodes["gpu-1"].workloads[0].scans]
    assert words[0] == f"home: may not: list vulnerabilityreports.{TRIVY} in llm."
    assert words[1:3] == [FOUND[1][1], FOUND[2][1]]
    assert "may not: get workloadconfigurationscansummaries" in words[3]


async def test_what_is_beside_may_all_be_withheld(double: Double, tmp_path: Path) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    double.forbidden |= {("list", "events"), ("list", "horizontalpodautoscalers")}
    loaded = inventory(tmp_path, double)
    snapshot = await survey(loaded, None, tmp_path / "state")
    node = snapshot.nodes["gpu-1"]
    assert node.workloads_trouble is None
    assert [w.name for w in node.workloads] == ["llm/coder"]
    async with Reaches(loaded.inventory, None, Secrets()) as reaches:
        found = await examine_node(loaded.inventory.node_named["gpu-1"], loaded.inventory, reaches["gpu-1"])
    assert {each.text.partition(": ")[2] for each in found if each.state == "warn"} == {
        "may not: list horizontalpodautoscalers.autoscaling in llm.", "may not: list events in llm."
    }  # fmt: skip


def test_nothing_beside_is_told_of_what_has_nothing() -> None:
    workload = Workload("a", "docker", "running")
    assert (workload.scaling, workload.volumes, workload.notices, workload.scans) == ("", (), (), ())
    assert Scan("trivy-operator", "vulnerabilities", "i").words == "nothing in i"
