"""The Kubernetes clusters of an inventory, each opened when it is first asked and shared by its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from backends.cluster.inventory import Inventory
from backends.errors import RuntimeFailure
from backends.secrets import Secrets

if TYPE_CHECKING:
    from backends.reach.kubernetes.access import Access
    from backends.reach.kubernetes.cluster import KubernetesCluster
    from backends.reach.kubernetes.proxy import ServiceProxy

Forward = Callable[[str, str, int], Awaitable[int]]


async def _no_way(node: str, host: str, port: int) -> int:
    raise RuntimeFailure(f"There is no way through {node} here.")


class Clusters:
    """One KubernetesCluster for each table [[clusters]]; `forward(node, host, port)` leads through a node."""

    def __init__(
        self, inventory: Inventory, secrets: Secrets, *, polling: bool = True, forward: Forward = _no_way
    ) -> None:
        self._tables = {table.name: table for table in inventory.clusters}
        endpoints = {endpoint.container for endpoint in inventory.endpoints if endpoint.container}
        self._named = endpoints.union(*(node.queue.order for node in inventory.nodes))
        self._secrets = secrets
        self._polling = polling
        self._forward = forward
        self._opened: dict[str, KubernetesCluster] = {}
        self._services: dict[tuple[str, str], tuple[int, ServiceProxy]] = {}
        self._opening = asyncio.Lock()

    def __getitem__(self, name: str) -> KubernetesCluster:
        if name not in self._opened:
            from backends.reach.kubernetes.api import KubernetesApi
            from backends.reach.kubernetes.cluster import KubernetesCluster

            table = self._tables[name]
            via, forward = table.via, self._forward

            async def tunnel(host: str, port: int) -> int:
                assert via is not None
                return await forward(via, host, port)

            api = KubernetesApi(name, lambda: self._find(name), tunnel=tunnel if via else None)
            self._opened[name] = KubernetesCluster(api, table.namespaces, self._named)
        return self._opened[name]

    async def service(self, name: str, url: str) -> int:
        """A port of ours that leads to a Service of a cluster, through its API; RuntimeFailure where that is away."""
        from urllib.parse import urlsplit

        from backends.reach.kubernetes.proxy import ServiceProxy

        where, api = urlsplit(url).netloc, self[name].api
        if (name, where) not in self._services or api.failure is not None:
            await api.get("/version")
        async with self._opening:
            if (name, where) not in self._services:
                proxy = ServiceProxy(api, url)
                self._services[name, where] = await proxy.open(), proxy
        return self._services[name, where][0]

    async def close(self) -> None:
        """Close all that was opened."""
        services, self._services = self._services, {}
        opened, self._opened = self._opened, {}
        await asyncio.gather(*(proxy.close() for _, proxy in services.values()))
        await asyncio.gather(*(cluster.close() for cluster in opened.values()))

    async def _find(self, name: str) -> Access:
        from backends.reach.kubernetes.access import Login, find

        table = self._tables[name]
        references = (table.token, table.client_certificate, table.client_key)
        values = [await self._secrets.resolve(r, polling=self._polling) if r else None for r in references]
        return await find(table, Login(*values))
