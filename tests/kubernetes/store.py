"""The objects of the API double, with resource versions, a history for watches, and its end (410)."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Kind:
    """A resource: where it is, and what its objects and lists are called."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


TRIVY, KUBESCAPE = "aquasecurity.github.io", "spdx.softwarecomposition.kubescape.io"

KINDS = {
    kind.plural: kind
    for kind in (
        Kind("nodes", "Node", namespaced=False),
        Kind("pods", "Pod"),
        Kind("events", "Event"),
        Kind("services", "Service"),
        Kind("persistentvolumeclaims", "PersistentVolumeClaim"),
        Kind("secrets", "Secret"),
        Kind("namespaces", "Namespace", namespaced=False),
        Kind("storageclasses", "StorageClass", "storage.k8s.io", namespaced=False),
        Kind("jobs", "Job", "batch"),
        Kind("deployments", "Deployment", "apps"),
        Kind("statefulsets", "StatefulSet", "apps"),
        Kind("leases", "Lease", "coordination.k8s.io"),
        Kind("ingresses", "Ingress", "networking.k8s.io"),
        Kind("horizontalpodautoscalers", "HorizontalPodAutoscaler", "autoscaling", "v2"),
        Kind("vulnerabilityreports", "VulnerabilityReport", TRIVY, "v1alpha1"),
        Kind("configauditreports", "ConfigAuditReport", TRIVY, "v1alpha1"),
        Kind("workloadconfigurationscansummaries", "WorkloadConfigurationScanSummary", KUBESCAPE, "v1beta1"),
        Kind("vulnerabilitymanifestsummaries", "VulnerabilityManifestSummary", KUBESCAPE, "v1beta1"),
    )
}


class Refused(Exception):
    """A Status answer."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: dict[str, Any] = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "details": dict(details or {}), "code": code,
        }  # fmt: skip
        if not details:
            del self.status["details"]


def merged(old: Any, new: Any) -> Any:
    """A JSON merge patch."""
    if not isinstance(new, dict):
        return copy.deepcopy(new)
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@dataclass
class Store:
    version: int = 100
    floor: int = 0
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {plural: {} for plural in KINDS})
    history: list[tuple[int, str, str, dict[str, Any]]] = field(default_factory=list)
    watchers: list[tuple[str, asyncio.Queue[tuple[str, dict[str, Any]] | None]]] = field(default_factory=list)

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        found = self.objects[kind.plural].get(f"{namespace}/{name}")
        if found is None:
            raise Refused(404, "NotFound", f'{kind.qualified} "{name}" not found', self.details(kind, name))
        return found

    @staticmethod
    def details(kind: Kind, name: str) -> dict[str, str]:
        group = {"group": kind.group} if kind.group else {}
        return {"name": name, **group, "kind": kind.plural}

    def create(self, kind: Kind, namespace: str, data: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        made = copy.deepcopy(dict(data))
        meta = made.setdefault("metadata", {})
        if "name" not in meta:
            meta["name"] = f"{meta.get('generateName', 'x-')}{uuid.uuid4().hex[:5]}"
        if f"{namespace}/{meta['name']}" in self.objects[kind.plural]:
            message = f'{kind.qualified} "{meta["name"]}" already exists'
            raise Refused(409, "AlreadyExists", message, self.details(kind, meta["name"]))
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp()}
        if kind.namespaced:
            meta["namespace"] = namespace
        made |= {"kind": kind.kind, "apiVersion": kind.api_version}
        if not dry:
            self.put(kind, namespace, made, "ADDED")
        return made

    def replace(self, kind: Kind, namespace: str, name: str, data: Mapping[str, Any]) -> dict[str, Any]:
        old = self.get(kind, namespace, name)
        told = (data.get("metadata") or {}).get("resourceVersion")
        if told and told != old["metadata"]["resourceVersion"]:
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {kind.qualified} "{name}": the object has been modified; '
                "please apply your changes to the latest version and try again",
                self.details(kind, name),
            )
        new = copy.deepcopy(dict(data))
        kept = {
            k: old["metadata"][k] for k in ("name", "namespace", "uid", "creationTimestamp") if k in old["metadata"]
        }
        new["metadata"] = {**new.get("metadata", {}), **kept}
        if new.get("spec") != old.get("spec") and "generation" in old["metadata"]:
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        self.put(kind, namespace, new, "MODIFIED")
        return new

    def put(self, kind: Kind, namespace: str, item: dict[str, Any], event: str) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.objects[kind.plural][f"{namespace}/{item['metadata']['name']}"] = item
        self._tell(kind, event, item)

    def touch(self, kind: Kind, item: dict[str, Any]) -> None:
        """An object was changed in place."""
        self.put(kind, item["metadata"].get("namespace", ""), item, "MODIFIED")

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        item = self.get(kind, namespace, name)
        del self.objects[kind.plural][f"{namespace}/{name}"]
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._tell(kind, "DELETED", item)

    def _tell(self, kind: Kind, event: str, item: dict[str, Any]) -> None:
        seen = copy.deepcopy(item)
        self.history.append((self.version, kind.plural, event, seen))
        for plural, queue in self.watchers:
            if plural == kind.plural:
                queue.put_nowait((event, seen))

    def compact(self) -> None:
        """Forget the history: whoever comes with an old version is told 410."""
        self.floor = self.version
        self.history.clear()

    def drop(self) -> None:
        """Cut all watches."""
        for _, queue in self.watchers:
            queue.put_nowait(None)

    def all(self, plural: str, namespace: str = "") -> list[dict[str, Any]]:
        objects = self.objects[plural]
        return [objects[key] for key in sorted(objects) if not namespace or key.startswith(f"{namespace}/")]
