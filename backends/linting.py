"""Looks at every container of every node for the rules of `cluster.lint`; nothing is changed for that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.inventory import Inventory
from backends.cluster.lint import Remark, Seen, binds, lint, models
from backends.errors import ReachError
from backends.reach.docker_store import DockerStore
from backends.reach.nodes import NodeReach, Reaches

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
    """Every node that has a Docker, side by side; `only` names one."""
    nodes = [n for n in inventory.nodes if only in (None, n.name) and (only or inventory.runs_containers(n))]
    found = await asyncio.gather(*(_node(reaches[node.name]) for node in nodes))
    seen = [each for part in found if not isinstance(part, str) for each in part]
    told = {node.name: part for node, part in zip(nodes, found, strict=True) if isinstance(part, str)}
    return Linted(tuple(lint(seen)), told, len(seen))


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
