"""How full the volumes of claims are, as the kubelet of a node counts them: its stats/summary, through the API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.noted import Volume
from backends.errors import ReachError, RuntimeFailure
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.fields import each, table
from backends.reach.kubernetes.quantities import quantity
from backends.reach.kubernetes.shapes import Claim, Controller
from backends.text import plain

MIB: Final = 2.0**20

SAME: Final = 0.2
"""By how much, as a share of the claim, a file system may be of another size and still be the claim's own."""


@dataclass(frozen=True, slots=True)
class Fill:
    """Bytes in use and in all of what a claim is bound to; `trouble` where they could not be asked for."""

    used: float | None = None
    size: float | None = None
    trouble: str = ""


async def fills(api: KubernetesApi, nodes: Iterable[str]) -> dict[str, Fill]:
    """By claim (NAMESPACE/NAME), what the kubelets of some nodes count; by node why one could not be asked."""
    found = await asyncio.gather(*(_of(api, node) for node in nodes))
    return {name: fill for part in found for name, fill in part.items()}


async def _of(api: KubernetesApi, node: str) -> dict[str, Fill]:
    try:
        return counted(await api.get(f"/api/v1/nodes/{node}/proxy/stats/summary"))
    except ReachError as error:
        refused = isinstance(error, RuntimeFailure) and error.status == 403
        return {node: Fill(trouble="may not: get nodes/proxy" if refused else plain(error.message))}


def counted(summary: Mapping[str, Any]) -> dict[str, Fill]:
    """By claim, what one kubelet's summary tells of the volumes of its pods."""
    found = {}
    for pod in each(summary, "pods"):
        for volume in each(pod, "volume"):
            claim = table(volume, "pvcRef")
            used, size = volume.get("usedBytes"), volume.get("capacityBytes")
            if claim.get("name") and isinstance(used, int | float):
                whole = float(size) if isinstance(size, int | float) else None
                found[f"{claim.get('namespace', '')}/{claim['name']}"] = Fill(float(used), whole)
    return found


def volumes(
    what: Controller, claims: Mapping[str, Claim], filled: Mapping[str, Fill], nodes: Iterable[str]
) -> tuple[Volume, ...]:
    """The claims of a workload whose pods are on `nodes`."""
    names = dict.fromkeys(f"{what.namespace}/{mount.partition(':')[0]}" for mount in what.mounts)
    troubles = [filled[node].trouble for node in nodes if node in filled]
    return tuple(
        _volume(claims[name], filled.get(name, Fill(trouble=next(iter(troubles), ""))))
        for name in names
        if name in claims
    )


def _volume(claim: Claim, fill: Fill) -> Volume:
    claimed = quantity(claim.size)
    alike = claimed is None or fill.size is None or abs(fill.size - claimed) <= SAME * claimed
    return Volume(
        claim.name.partition("/")[2],
        None if claimed is None else claimed / MIB,
        None if fill.used is None else fill.used / MIB,
        None if alike or fill.size is None else fill.size / MIB,
        fill.trouble,
    )
