"""The controllers, the scheduler and the kubelets of the API double: small, and with times that a test chooses."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes.store import KINDS, Store, stamp

GPU = "nvidia.com/gpu"


@dataclass
class Times:
    """Seconds: to pull and start, until the probe says ready, and to stop."""

    start: float = 0.05
    ready: float = 0.15
    stop: float = 0.05
    work: float = 0.05
    """Between two lines of a job."""


@dataclass
class Controllers:
    store: Store
    times: Times = field(default_factory=Times)
    quota: str = ""
    """Why no pod may be created."""
    broken: dict[str, str] = field(default_factory=dict)
    """For a workload's name how its pods fail: "pull", "crash", "hang"."""
    started: list[tuple[str, str]] = field(default_factory=list)
    """What happened to whom, in order."""
    works: tuple[str, ...] = ("progress 2 KiB", "progress 4 KiB")
    """What a job's pod says, line by line."""
    jobs: list[str] = field(default_factory=list)
    """The jobs that were begun."""
    says: dict[str, list[str]] = field(default_factory=dict)
    """The logs of pods."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    rolled: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The template of each workload that its pods are made of: a paused one keeps the former."""
    most: dict[str, int] = field(default_factory=dict)
    """How many pods of each workload there were at once, at the most."""

    def reconcile(self) -> None:
        """Make pods as many as replicas, and give the pending ones nodes."""
        for plural in ("deployments", "statefulsets"):
            for item in self.store.all(plural):
                self._scale(plural, item)
        for job in self.store.all("jobs"):
            if "begun" not in job["status"]:
                job["status"]["begun"] = True
                self._spawn(self._work(job))
        for pod in self.store.all("pods"):
            if not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
                self._schedule(pod)

    def _scale(self, plural: str, item: dict[str, Any]) -> None:
        wanted, name = item["spec"].get("replicas", 1), item["metadata"]["name"]
        if not item["spec"].get("paused"):
            self.rolled[name] = copy.deepcopy(item["spec"]["template"])
        own = [p for p in self.pods_of(item) if "deletionTimestamp" not in p["metadata"]]
        former = [p for p in own if plural == "deployments" and not self._is_new(item, p)]
        if former and not item["spec"].get("paused"):
            new = len(own) - len(former)
            self._roll(former, ready=sum(is_ready(pod) for pod in own), wanted=wanted)
            surge = item["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 1)
            wanted = min(wanted - new, max(0, wanted + surge - len(own))) + len(own)
        for pod in own[wanted:]:
            self.stop(pod)
        failed = bool(wanted > len(own) and self.quota)
        if not failed:
            for number in range(len(own), wanted):
                self._make(plural, item, number)
        self.most[name] = max(self.most.get(name, 0), len(self.pods_of(item)))
        self._condition(plural, item, failed=failed)

    def _is_new(self, item: dict[str, Any], pod: dict[str, Any]) -> bool:
        return bool(pod["metadata"]["labels"].get("pod-template-hash") == turned(item["spec"]["template"]))

    def _roll(self, former: list[dict[str, Any]], *, ready: int, wanted: int) -> None:
        """End pods of the former template, as far as enough stay ready (maxUnavailable 25%, rounded down)."""
        for pod in former[: max(0, ready - wanted)]:
            self.stop(pod)

    def _condition(self, plural: str, item: dict[str, Any], *, failed: bool) -> None:
        status = item.setdefault("status", {})
        before = copy.deepcopy(status)
        own = [p for p in self.pods_of(item) if "deletionTimestamp" not in p["metadata"]]
        ready = sum(is_ready(pod) for pod in own)
        new = sum(self._is_new(item, pod) for pod in own) if plural == "deployments" else len(own)
        status.update({"observedGeneration": item["metadata"].get("generation", 1), "terminatingReplicas": 0})
        for key, count in (("replicas", len(own)), ("updatedReplicas", new), ("readyReplicas", ready)):
            status.pop(key, None)
            if count:
                status[key] = count
        others = [c for c in status.get("conditions", []) if c["type"] != "ReplicaFailure"]
        if failed:
            message = f'pods "{item["metadata"]["name"]}-x" is forbidden: {self.quota}'
            common = {"lastUpdateTime": stamp(), "lastTransitionTime": stamp()}
            others.append(
                {"type": "ReplicaFailure", "status": "True", **common, "reason": "FailedCreate", "message": message}
            )
        status["conditions"] = others
        if status != before:
            self.store.touch(KINDS[plural], item)

    def pods_of(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = item["spec"]["selector"]["matchLabels"].items()
        return [
            pod
            for pod in self.store.all("pods", item["metadata"]["namespace"])
            if wanted <= pod["metadata"].get("labels", {}).items()
        ]

    def _make(self, plural: str, item: dict[str, Any], number: int) -> None:
        name = item["metadata"]["name"]
        template = copy.deepcopy(self.rolled[name])
        made_of = turned(template)
        labels = dict(template.get("metadata", {}).get("labels", {}))
        owner: dict[str, Any] = {"apiVersion": "apps/v1", "uid": item["metadata"]["uid"]}
        owner |= {"controller": True, "blockOwnerDeletion": True}
        if plural == "deployments":
            labels["pod-template-hash"] = made_of
            owner |= {"kind": "ReplicaSet", "name": f"{name}-{made_of}"}
            meta: dict[str, Any] = {"generateName": f"{name}-{made_of}-"}
        else:
            owner |= {"kind": "StatefulSet", "name": name}
            meta = {"name": f"{name}-{number}"}
        meta |= {"labels": labels, "ownerReferences": [owner]}
        for each in template["spec"]["containers"]:
            resources = each.get("resources", {})
            if "limits" in resources:
                resources.setdefault("requests", dict(resources["limits"]))
        namespace = item["metadata"]["namespace"]
        pod = {"metadata": meta, "spec": template["spec"], "status": {"phase": "Pending"}}
        self.store.create(KINDS["pods"], namespace, pod)

    def _schedule(self, pod: dict[str, Any]) -> None:
        wanted, reasons = asked(pod), []
        for node in self.store.all("nodes"):
            name = node["metadata"]["name"]
            if node["spec"].get("unschedulable"):
                reasons.append("node(s) were unschedulable")
            elif not pod["spec"].get("nodeSelector", {}).items() <= node["metadata"].get("labels", {}).items():
                reasons.append("node(s) didn't match Pod's node affinity/selector")
            elif self.free(name) < wanted:
                reasons.append(f"Insufficient {GPU}")
            else:
                pod["spec"]["nodeName"] = name
                pod["status"] = {"phase": "Pending", "conditions": [condition("PodScheduled", "True")]}
                self.store.touch(KINDS["pods"], pod)
                self._spawn(self._kubelet(pod))
                return
        total = len(reasons)
        counted = ", ".join(f"{reasons.count(r)} {r}" for r in dict.fromkeys(reasons))
        message = (
            f"0/{total} nodes are available: {counted}. no new claims to deallocate, preemption: 0/{total} nodes are "
            f"available: {total} Preemption is not helpful for scheduling."
        )
        failed = condition("PodScheduled", "False", "Unschedulable", message)
        if pod["status"].get("conditions", [{}])[0].get("message") != message:
            pod["status"] = {"phase": "Pending", "conditions": [failed]}
            self.store.touch(KINDS["pods"], pod)
            self.event(pod, "FailedScheduling", message)

    def free(self, node: str) -> int:
        have = int(self.store.get(KINDS["nodes"], "", node)["status"]["allocatable"].get(GPU, 0))
        return have - sum(asked(p) for p in self.store.all("pods") if p["spec"].get("nodeName") == node)

    async def _kubelet(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"].get("labels", {}).get("app", pod["metadata"]["name"])
        fault = self.broken.get(name, "")
        main = pod["spec"]["containers"][0]
        if fault == "pull":
            state = {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{main["image"]}"'}}
            self._says(pod, "Pending", state)
            return
        self._says(pod, "Pending", {"waiting": {"reason": "ContainerCreating"}})
        await asyncio.sleep(self.times.start)
        if fault == "crash":
            back = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
            self._says(pod, "Running", back, last={"terminated": {"exitCode": 1, "reason": "Error"}}, restarts=1)
            return
        self.started.append(("running", name))
        self._says(pod, "Running", {"running": {"startedAt": stamp()}})
        if fault == "hang":
            return
        await asyncio.sleep(self.times.ready)
        self.started.append(("ready", name))
        self._says(pod, "Running", {"running": {"startedAt": stamp()}}, ready=True)
        self.reconcile()

    async def _work(self, job: dict[str, Any]) -> None:
        """A job's pod, which says how far it is and then is done, or fails as `broken` has it."""
        meta = job["metadata"]
        name, namespace = meta["name"], meta["namespace"]
        pod = {"metadata": {"name": f"{name}-x", "labels": {"batch.kubernetes.io/job-name": name}},
               "spec": {"nodeName": "gpu-1", "containers": []}, "status": {"phase": "Running"}}  # fmt: skip
        self.store.objects["pods"].pop(f"{namespace}/{name}-x", None)
        self.store.create(KINDS["pods"], namespace, pod)
        self.jobs.append(name)
        for line in self.works:
            self.says.setdefault(f"{name}-x", []).append(line)
            await asyncio.sleep(self.times.work)
        kind = "Failed" if name in self.broken else "Complete"
        if name in self.broken:
            self.says[f"{name}-x"].append(self.broken[name])
        if self.store.objects["jobs"].get(f"{namespace}/{name}") is job:
            job["status"]["conditions"] = [{"type": kind, "status": "True"}]
            self.store.touch(KINDS["jobs"], job)

    def _says(
        self,
        pod: dict[str, Any],
        phase: str,
        state: dict[str, Any],
        *,
        ready: bool = False,
        last: dict[str, Any] | None = None,
        restarts: int = 0,
    ) -> None:
        meta = pod["metadata"]
        if f"{meta['namespace']}/{meta['name']}" not in self.store.objects["pods"]:
            return
        main = pod["spec"]["containers"][0]
        own = {
            "name": main["name"], "state": state, "lastState": last or {}, "ready": ready, "restartCount": restarts,
            "image": main["image"], "imageID": main["image"], "containerID": f"fakeRuntime://{meta['name']}",
        }  # fmt: skip
        word = "True" if ready else "False"
        conditions = [condition("PodScheduled", "True"), condition("Ready", word), condition("ContainersReady", word)]
        pod["status"] = {"phase": phase, "conditions": conditions, "containerStatuses": [own], "startTime": stamp()}
        self.store.touch(KINDS["pods"], pod)

    def stop(self, pod: dict[str, Any]) -> None:
        """Ask a pod to end."""
        pod["metadata"]["deletionTimestamp"] = stamp()
        pod["metadata"]["deletionGracePeriodSeconds"] = 30
        self.store.touch(KINDS["pods"], pod)
        self._spawn(self._end(pod))

    async def _end(self, pod: dict[str, Any]) -> None:
        await asyncio.sleep(self.times.stop)
        self.started.append(("gone", pod["metadata"].get("labels", {}).get("app", "")))
        self.store.delete(KINDS["pods"], pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.reconcile()

    def event(self, item: dict[str, Any], reason: str, message: str) -> None:
        meta = item["metadata"]
        about = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
        name = f"{meta['name']}.{uuid.uuid4().hex[:16]}"
        data = {"metadata": {"name": name}, "involvedObject": about, "reason": reason,
                "message": message, "type": "Warning", "eventTime": stamp()}  # fmt: skip
        self.store.create(KINDS["events"], meta["namespace"], data)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def turned(template: dict[str, Any]) -> str:
    """What a Deployment's controller calls a template: a hash."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def asked(pod: dict[str, Any]) -> int:
    return sum(int(c.get("resources", {}).get("limits", {}).get(GPU, 0)) for c in pod["spec"]["containers"])


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    said = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": stamp()}
    return said | ({"reason": reason, "message": message} if reason else {})
