"""One Kubernetes cluster, watched: what all its nodes share. Watches begin when something is first asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from backends.cluster.reading import Workload
from backends.errors import RuntimeFailure
from backends.reach.kubernetes import shapes
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.asides import Asides
from backends.reach.kubernetes.kept import Kept
from backends.reach.kubernetes.rights import Rights
from backends.reach.kubernetes.shapes import Controller, Pod
from backends.reach.kubernetes.words import Seen

FIRST: Final = 15.0
"""Seconds for the first lists of a cluster."""

BESIDE: Final = 3.0
"""Seconds that the first look waits for what is told beside."""


class KubernetesCluster:
    """Watches the Deployments, StatefulSets, pods, nodes and claims of a cluster, in some namespaces or in all.

    Kept is what asks for GPUs, and the workloads that are `named`.
    """

    def __init__(self, api: KubernetesApi, namespaces: Iterable[str] = (), named: Iterable[str] = ()) -> None:
        self.api = api
        self.rights = Rights(api)
        self.namespaces = tuple(namespaces)
        self._named = frozenset(named)
        parts = [f"/namespaces/{name}" for name in self.namespaces] or [""]
        deployment = partial(self._controller, kind="deployment")
        stateful = partial(self._controller, kind=shapes.STATEFUL)
        self._controllers = [Kept(api, f"/apis/apps/v1{part}/deployments", deployment) for part in parts]
        self._controllers += [Kept(api, f"/apis/apps/v1{part}/statefulsets", stateful) for part in parts]
        self._pods = [Kept(api, f"/api/v1{part}/pods", self._pod) for part in parts]
        self._claims = [Kept(api, f"/api/v1{part}/persistentvolumeclaims", shapes.claim) for part in parts]
        self._hosts = Kept(api, "/api/v1/nodes", shapes.host)
        self._asides = Asides(api, parts, self.seen)
        self._waited = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def home(self) -> str:
        """The namespace for what we keep there ourselves: leases."""
        return self.namespaces[0] if self.namespaces else "default"

    async def seen(self) -> Seen:
        """What there is, by the watches; a ReachError where Deployments or pods cannot be known.

        Nodes and claims may be withheld from us: then GPUs are not counted, and nothing else.
        """
        kept: list[Kept[Any]] = [*self._controllers, *self._pods, *self._claims, self._hosts]
        if not self._tasks:
            self._tasks = [asyncio.create_task(run) for run in (*(each.run() for each in kept), self._asides.run())]
        try:
            async with asyncio.timeout(FIRST):
                await asyncio.gather(*(each.told() for each in kept))
        except TimeoutError:
            raise RuntimeFailure(
                f"{self.api.name}: its API has not told all within {FIRST:g} s.", "It is slow, or overloaded."
            ) from None
        for each in kept[: len(self._controllers) + len(self._pods)]:
            if each.trouble is not None:
                raise each.trouble
        return Seen(
            {c.name: c for each in self._controllers for c in each.objects.values()},
            tuple(p for each in self._pods for p in each.objects.values()),
            {h.name: h for h in self._hosts.objects.values()},
            {c.name: c for each in self._claims for c in each.objects.values()},
        )

    async def noted(self, seen: Seen, workloads: Iterable[Workload]) -> tuple[Workload, ...]:
        """Workloads with what is told of them beside their state; the first look waits a little for that."""
        if not self._waited:
            self._waited = True
            with suppress(TimeoutError):
                async with asyncio.timeout(BESIDE):
                    await self._asides.told()
        return tuple(self._asides.noted(seen, each) for each in workloads)

    def withheld(self) -> tuple[str, ...]:
        """What is not told beside, and why."""
        return tuple(self._asides.withheld())

    def _controller(self, data: Mapping[str, Any], kind: str) -> Controller | None:
        found = shapes.controller(data, kind)
        return found if found.gpus or found.name in self._named else None

    def _pod(self, data: Mapping[str, Any]) -> Pod | None:
        found = shapes.pod(data)
        return found if found and (found.gpus or found.owner in self._named) else None

    async def close(self) -> None:
        """End all watches, then all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.api.close()
