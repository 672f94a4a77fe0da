"""Looks at every container and workload of every node for the rules of `cluster.lint`; nothing is changed for that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.inventory import Inventory
from backends.cluster.lint import Remark, Seen, binds, lint, models, scanned
from backends.cluster.reading import Workload
from backends.errors import ReachError
from backends.reach.docker_store import DockerStore
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches

LIMIT: Final = 60.0
"""Seconds one node may take."""

_DESKTOP: Final = "Docker Desktop"


@dataclass(frozen=True, slots=True)
class Linted:
    """What was found, and for each node that could not be asked why."""

    remarks: tuple[Remark, ...]
    troubles: Mapping[str, str]
    containers: int


async def lint_all(inventory: Inventory, reaches: Reaches, only: str | None = None) -> Linted:
    """Every node that has a Docker or is of a Kubernetes cluster, side by side; `only` names one."""
    named = [n for n in inventory.nodes if only in (None, n.name)]
    nodes = [n for n in named if inventory.runs_containers(n) or (only and n.kubernetes is None)]
    placed = [n for n in named if n.kubernetes is not None]
    found = await asyncio.gather(*(_node(reaches[node.name]) for node in nodes))
    workloads = await asyncio.gather(*(_placed(reaches[node.name]) for node in placed))
    seen = [each for part in found if not isinstance(part, str) for each in part]
    pods = {each.name: (node.name, each) for node, part in zip(placed, workloads, strict=True)
            if not isinstance(part, str) for each in part}  # fmt: skip
    asked = [*zip(nodes, found, strict=True), *zip(placed, workloads, strict=True)]
    told = {node.name: part for node, part in asked if isinstance(part, str)}
    remarks = [*lint(seen), *(remark for node, each in pods.values() for remark in scanned(node, each))]
    return Linted(tuple(remarks), told, len(seen) + len(pods))


async def _placed(reach: NodeReach) -> Sequence[Workload] | str:
    """The workloads of a node of a Kubernetes cluster, with what scanners say of them."""
    runtime = reach.kubernetes()
    assert runtime is not None
    try:
        async with asyncio.timeout(LIMIT):
            return await runtime.workloads()
    except ReachError as error:
        return str(error)
    except TimeoutError:
        return f"{reach.node.name} did not tell its workloads within {LIMIT:.0f} s."


async def _node(reach: NodeReach) -> Sequence[Seen] | str:
    try:
        async with asyncio.timeout(LIMIT):
            runtime = await reach.runtime()
            store = DockerStore(runtime)
            desktop = str((await store.info()).get("OperatingSystem")) == _DESKTOP
            found = []
            for workload in await runtime.workloads():
                inspected = await store.container(workload.id)
                if inspected is not None:
                    found.append(await _seen(reach.node.name, store, inspected, desktop))
            return found
    except ReachError as error:
        return str(error)
    except TimeoutError:
        return f"{reach.node.name} did not tell all of its containers within {LIMIT:.0f} s."


async def _seen(node: str, store: DockerStore, inspected: dict[str, Any], desktop: bool) -> Seen:
    seen = Seen(node, inspected, desktop)
    if not desktop:
        return seen
    bound = [path for path in models(seen) if any(path.startswith(where) for where, _ in binds(inspected))]
    sizes = {path: await store.size(str(inspected["Id"]), path) for path in bound}
    return Seen(node, inspected, desktop, sizes)
