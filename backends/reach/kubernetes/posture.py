"""What trivy-operator and kubescape say of workloads: their reports, where the API has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.noted import Scan
from backends.errors import ReachError
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.fields import each, table
from backends.reach.kubernetes.shapes import Controller, Pod
from backends.text import plain

VULNERABILITIES: Final = "vulnerabilities"
CONFIGURATION: Final = "configuration"

_OURS: Final = frozenset({"deployment", "statefulset", "replicaset", "pod"})
"""Kinds whose reports are a workload's; a Service of the same name has one of its own."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """An operator whose reports stand in the API: its group, and by which labels they tell whose they are.

    `bare`: its lists tell names only, and each report is asked for by its own.
    """

    name: str
    group: str
    kind_label: str
    name_label: str
    reports: Mapping[str, str]
    read: Callable[[Mapping[str, Any]], tuple[str, Mapping[str, int]]]
    bare: bool = False


def _trivy(report: Mapping[str, Any]) -> tuple[str, Mapping[str, int]]:
    told = table(report, "report")
    artifact, counts = table(told, "artifact"), table(told, "summary")
    where = f":{artifact['tag']}" if artifact.get("tag") else ""
    image = f"{artifact['repository']}{where}" if artifact.get("repository") else ""
    return image, {word: _count(counts.get(f"{word}Count")) for word in ("critical", "high", "medium", "low")}


def _kubescape(report: Mapping[str, Any]) -> tuple[str, Mapping[str, int]]:
    counts = table(table(report, "spec"), "severities")
    told = {word: counts.get(word) for word in ("critical", "high", "medium", "low")}
    every = {word: count.get("all") if isinstance(count, dict) else count for word, count in told.items()}
    image = str(table(table(report, "metadata"), "annotations").get("kubescape.io/image-tag") or "")
    return image, {word: _count(count) for word, count in every.items()}


SCANNERS: Final = (
    Scanner(
        "trivy-operator",
        "aquasecurity.github.io/v1alpha1",
        "trivy-operator.resource.kind",
        "trivy-operator.resource.name",
        {VULNERABILITIES: "vulnerabilityreports", CONFIGURATION: "configauditreports"},
        _trivy,
    ),
    Scanner(
        "kubescape",
        "spdx.softwarecomposition.kubescape.io/v1beta1",
        "kubescape.io/workload-kind",
        "kubescape.io/workload-name",
        {VULNERABILITIES: "vulnerabilitymanifestsummaries", CONFIGURATION: "workloadconfigurationscansummaries"},
        _kubescape,
        bare=True,
    ),
)


async def scans(
    api: KubernetesApi, workloads: Iterable[tuple[Controller, Iterable[Pod]]]
) -> dict[str, tuple[Scan, ...]]:
    """By workload, what the scanners that are installed found in it; nothing is asked of those that are not."""
    listed = await api.get("/apis")
    groups = {
        str(version.get("groupVersion")) for group in each(listed, "groups") for version in each(group, "versions")
    }
    installed = [scanner for scanner in SCANNERS if scanner.group in groups]
    found: dict[str, tuple[Scan, ...]] = {}
    for what, pods in workloads if installed else ():
        names = sorted({what.bare, *(pod.maker for pod in pods if pod.maker)})
        asked = [_scans(api, scanner, kind, what, names) for scanner in installed for kind in scanner.reports]
        found[what.name] = tuple(scan for part in await asyncio.gather(*asked) for scan in part)
    return found


async def _scans(api: KubernetesApi, scanner: Scanner, kind: str, what: Controller, names: Iterable[str]) -> list[Scan]:
    path = f"/apis/{scanner.group}/namespaces/{what.namespace}/{scanner.reports[kind]}"
    try:
        listed = await api.get(path, {"labelSelector": f"{scanner.name_label} in ({','.join(names)})"})
        items = [item for item in each(listed, "items") if _is_ours(scanner, item)]
        if scanner.bare:
            items = [await api.get(f"{path}/{table(item, 'metadata').get('name')}") for item in items]
    except ReachError as error:
        return [Scan(scanner.name, kind, what.name, trouble=plain(error.message, 200))]
    return [_scan(scanner, kind, what, item) for item in items]


def _is_ours(scanner: Scanner, item: Mapping[str, Any]) -> bool:
    labels = table(table(item, "metadata"), "labels")
    return str(labels.get(scanner.kind_label)).lower() in _OURS


def _scan(scanner: Scanner, kind: str, what: Controller, item: Mapping[str, Any]) -> Scan:
    image, counts = scanner.read(item)
    subject = "its configuration" if kind == CONFIGURATION else plain(image) or what.image
    return Scan(scanner.name, kind, subject, counts["critical"], counts["high"], counts["medium"], counts["low"])


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
