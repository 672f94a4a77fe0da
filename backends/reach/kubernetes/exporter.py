"""The DCGM exporter of a node: its pod found by its label, and asked through the API's pod proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from backends.reach.kubernetes.cluster import KubernetesCluster
from backends.reach.kubernetes.fields import each, table

LABELS: Final = ("app.kubernetes.io/name=dcgm-exporter", "app=nvidia-dcgm-exporter")
"""What the exporter's own chart calls it, and what NVIDIA's GPU operator does."""

PORT: Final = 9400
"""Where it listens unless told otherwise."""

SILENCE: Final = 10.0
"""Seconds without a word after which it is taken for dead."""


class DcgmExporter:
    """The exporter on `node` (its name in the API) of a cluster, if there is one."""

    def __init__(self, cluster: KubernetesCluster, node: str) -> None:
        self._cluster = cluster
        self._api = cluster.api
        self._node = node
        self._path = ""

    async def read(self) -> str | None:
        """What it exports now; None where the node has no exporter. ReachError where it cannot be asked."""
        if not self._path:
            self._path = await self._find()
        if not self._path:
            return None
        path, self._path = self._path, ""  # one that fails is looked for anew
        async with self._api.lines(path, {}, silence=SILENCE) as lines, aclosing(lines):
            text = "\n".join([line async for line in lines])
        self._path = path
        return text

    async def containers(self) -> dict[str, str]:
        """The ids of the containers of the pods on the node (NAMESPACE/NAME), as far as they are watched."""
        pods = (await self._cluster.seen()).pods
        return {f"{p.namespace}/{p.name}": p.container_id for p in pods if p.node == self._node and p.container_id}

    async def _find(self) -> str:
        for label in LABELS:
            params = {"labelSelector": label, "fieldSelector": f"spec.nodeName={self._node}", "limit": 5}
            for pod in each(await self._api.get("/api/v1/pods", params), "items"):
                if table(pod, "status").get("phase") == "Running":
                    meta = table(pod, "metadata")
                    where = f"/api/v1/namespaces/{meta.get('namespace')}/pods/{meta.get('name')}"
                    return f"{where}:{next(_ports(pod), PORT)}/proxy/metrics"
        return ""


def _ports(pod: Mapping[str, Any]) -> Iterator[int]:
    """The ports by which it says that its metrics are to be had."""
    for container in each(table(pod, "spec"), "containers"):
        for port in each(container, "ports"):
            if port.get("name") == "metrics" and isinstance(port.get("containerPort"), int):
                yield port["containerPort"]
