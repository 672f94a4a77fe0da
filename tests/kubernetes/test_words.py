"""Deployments and pods in our words: what they do, why they do not, and who holds the GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.reading import Device
from backends.reach.kubernetes import shapes
from backends.reach.kubernetes.words import Seen, devices, pending, workload, workloads

RECORDED = Path(__file__).parents[1] / "fixtures/recorded/kubernetes.jsonl"
GPU = "nvidia.com/gpu"


def recorded(request: str, nth: int = 0) -> Any:
    found = [line for text in RECORDED.read_text().splitlines() if (line := json.loads(text)).get("request") == request]
    return found[nth]["answer"]


def deployment(name: str = "coder", gpus: int = 1, replicas: int = 1, **inner: Any) -> shapes.Controller:
    main = {"name": "main", "image": "i", "readinessProbe": {}, "resources": {"limits": {GPU: str(gpus)}}} | inner.pop(
        "main", {"readinessProbe": {"httpGet": {}}}
    )
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}}
    spec["template"] = {"spec": {"containers": [main], **inner}}
    return shapes.controller({"metadata": {"name": name, "namespace": "llm"}, "spec": spec}, "deployment")


def pod(owner: str = "coder", node: str = "n1", gpus: int = 1, **more: Any) -> shapes.Pod:
    return shapes.Pod("llm", f"{owner}-x", f"llm/{owner}", node, more.pop("phase", "Running"), 1.0, {GPU: gpus}, **more)


def node(name: str = "n1", gpus: int = 8, **labels: str) -> shapes.Host:
    return shapes.Host(name, labels, True, "", False, {GPU: gpus}, {GPU: gpus})


def test_what_a_real_server_says_of_a_deployment_and_its_pods() -> None:
    what = shapes.controller(recorded("GET /apis/apps/v1/namespaces/default/deployments/coder"), "deployment")
    listed = recorded("GET /api/v1/namespaces/default/pods?labelSelector=app%3Dcoder")["items"]
    pods = tuple(p for item in listed if (p := shapes.pod(item)))
    hosts = {h.name: h for h in map(shapes.host, recorded("GET /api/v1/nodes")["items"])}
    seen = Seen({what.name: what}, pods, hosts)
    for name in ("gpu-node-1", "gpu-node-2"):
        (found,) = workloads(seen, name, ())
        assert (found.name, found.runtime, found.state, found.health) == (
            "default/coder", "kubernetes", "running", "healthy"
        )  # fmt: skip
        assert found.gpu
        assert found.arguments == ("--model", "/models/m")
        assert found.started_at
        assert devices(seen, name) == (Device(GPU, 8, 8, 1, ("coder 1",)),)


def test_why_a_real_scheduler_leaves_a_pod_pending() -> None:
    (item,) = recorded("GET /api/v1/namespaces/default/pods?labelSelector=app%3Dbig")["items"]
    waiting = shapes.pod(item)
    assert waiting is not None
    hosts = {h.name: h for h in map(shapes.host, recorded("GET /api/v1/nodes")["items"])}
    big = deployment("big", 20)
    others = (pod("mistral-7b", "gpu-node-1", 6), pod("coder", "gpu-node-2", 2), waiting)
    words = pending(Seen({big.name: big}, others, hosts), big, waiting)
    assert words == "2 of 2 nodes: Insufficient nvidia.com/gpu; held by mistral-7b, coder"
    assert pending(Seen({}, (waiting,), hosts), big, waiting) == "2 of 2 nodes: Insufficient nvidia.com/gpu"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("0/3 nodes are available: 1 node(s) had untolerated taint {gpu: true}, 2 Insufficient cpu. preemption: none.",
         "1 of 3 nodes: had untolerated taint {gpu: true}; 2 of 3 nodes: Insufficient cpu"),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
         "1 of 1 nodes: didn't match Pod's node affinity/selector"),
        ("something else\x1b[31m", "something else"),
        ("", "not scheduled yet"),
    ],
)  # fmt: skip
def test_other_words_of_the_scheduler(said: str, words: str) -> None:
    assert pending(Seen(), deployment(), pod(node="", unscheduled=said)).startswith(words)


def test_a_claim_that_is_not_bound_is_named_too() -> None:
    volumes = [{"name": "cache", "persistentVolumeClaim": {"claimName": "model-cache"}}]
    main = {"readinessProbe": {}, "volumeMounts": [{"name": "cache", "mountPath": "/models"}]}
    what = deployment(main=main, volumes=volumes)
    assert what.mounts == ("model-cache:/models",)
    item = recorded("POST /api/v1/namespaces/default/persistentvolumeclaims")
    claim = shapes.claim(item)
    assert (claim.name, claim.phase, claim.size) == ("default/model-cache", "Pending", "100Gi")
    seen = Seen(claims={"llm/model-cache": shapes.Claim("llm/model-cache", "Pending", "100Gi")})
    assert pending(seen, what, pod(node="")) == "not scheduled yet; llm/model-cache is Pending"


STATES = [
    ("stopped", {"replicas": 0}, None, ("exited", None, "no replicas", 0)),
    ("not created yet", {}, None, ("created", None, "its pod is not created yet", None)),
    ("loading", {}, {"running": True, "started_at": 5.0}, ("running", "starting", "", None)),
    ("ready", {}, {"running": True, "ready": True}, ("running", "healthy", "", None)),
    ("no probe", {"main": {"readinessProbe": None}}, {"running": True, "ready": True}, ("running", None, "", None)),
    ("creating", {}, {"waiting": ("ContainerCreating", "")},
     ("starting", None, "its image is pulled, its volumes are mounted", None)),
    ("pulling fails", {}, {"waiting": ("ImagePullBackOff", "Back-off pulling image")},
     ("created", None, "ImagePullBackOff: Back-off pulling image", None)),
    ("crashing", {}, {"waiting": ("CrashLoopBackOff", "x"), "restarts": 4, "exit_code": 1},
     ("restarting", None, "ended 4 times, exit code 1", 1)),
    ("going", {"replicas": 0}, {"running": True, "ready": True, "deleting": True},
     ("exited", None, "it is being stopped", 0)),
    ("made anew", {}, {"running": True, "ready": True, "deleting": True},
     ("running", "starting", "it is being stopped", None)),
]  # fmt: skip


@pytest.mark.parametrize(("made", "own", "words"), [row[1:] for row in STATES], ids=[row[0] for row in STATES])
def test_states(made: dict[str, Any], own: dict[str, Any] | None, words: tuple[object, ...]) -> None:
    found = workload(Seen(), deployment(**made), [] if own is None else [pod(**own)])
    assert (found.state, found.health, found.error, found.exit_code) == words


def test_a_quota_that_forbids_its_pods_is_named() -> None:
    data = {
        "metadata": {"name": "coder", "namespace": "llm"},
        "spec": {"replicas": 1},
        "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message":
            'pods "coder-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'}]},
    }  # fmt: skip
    found = workload(Seen(), shapes.controller(data, "deployment"), [])
    assert (found.state, found.error) == ("created", "exceeded quota gpus, requested: requests.nvidia.com/gpu=1")


def test_out_of_memory_is_told() -> None:
    found = workload(Seen(), deployment(), [pod(waiting=("CrashLoopBackOff", ""), oom_killed=True, exit_code=137)])
    assert (found.state, found.oom_killed, found.exit_code) == ("restarting", True, 137)


def test_where_what_is_stopped_belongs() -> None:
    pinned = deployment("pinned", replicas=0, nodeSelector={"kubernetes.io/hostname": "n1"})
    terms = [{"matchExpressions": [{"key": "accel", "operator": "In", "values": ["h200"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    akin = deployment("akin", replicas=0, affinity={"nodeAffinity": required})
    free = deployment("free", replicas=0)
    hosts = {
        "n1": node("n1", 8, **{"kubernetes.io/hostname": "n1"}),
        "n2": node("n2", accel="h200"),
        "cpu": node("cpu", 0),
    }
    seen = Seen({c.name: c for c in (pinned, akin, free)}, (), hosts)
    assert [w.name for w in workloads(seen, "n1", ())] == ["llm/free", "llm/pinned"]
    assert [w.name for w in workloads(seen, "n2", ())] == ["llm/akin", "llm/free"]
    assert workloads(seen, "cpu", ()) == ()
    running = Seen(seen.controllers, (pod("free", "n2", running=True),), hosts)
    assert [w.name for w in workloads(running, "n1", ())] == ["llm/pinned"]


def test_what_asks_for_no_gpu_is_seen_only_where_the_inventory_names_it() -> None:
    plain = deployment("web", 0)
    seen = Seen({plain.name: plain}, (pod("web", gpus=0, running=True, ready=True),), {"n1": node()})
    assert workloads(seen, "n1", ()) == ()
    (found,) = workloads(seen, "n1", {"llm/web"})
    assert (found.state, found.gpu) == ("running", False)


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("nvidia.com/gpu", True), ("nvidia.com/gpu.shared", True), ("nvidia.com/mig-1g.10gb", True),
        ("amd.com/gpu", True), ("gpu.intel.com/i915", True), ("nvidia.com/other", False), ("cpu", False),
    ],
)  # fmt: skip
def test_what_counts_as_a_gpu(name: str, counted: bool) -> None:
    item = {"metadata": {"name": "p"}, "spec": {"containers": [{"resources": {"limits": {name: "2"}}}]}}
    found = shapes.pod(item)
    assert (found is not None and found.gpus == {name: 2}) is counted


def test_statefulsets_have_names_of_their_own() -> None:
    meta = {"name": "cache-0", "namespace": "llm", "ownerReferences": [
        {"kind": "StatefulSet", "name": "cache", "controller": True}]}  # fmt: skip
    found = shapes.pod({"metadata": meta, "spec": {"containers": []}, "status": {}})
    assert found is not None
    assert found.owner == "llm/statefulset/cache"
    data = {"metadata": {"name": "cache", "namespace": "llm"}, "spec": {}}
    assert shapes.controller(data, "statefulset").name == found.owner
