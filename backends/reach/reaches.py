"""All nodes of an inventory as they are touched, and the clusters that they belong to; closed together."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Endpoint, Node
from backends.errors import ReachError
from backends.reach.clusters import Clusters
from backends.reach.nodes import PATIENCE, NodeReach
from backends.secrets import Secrets


class Reaches:
    """One NodeReach for every node of the inventory, closed together."""

    def __init__(self, inventory: Inventory, here: str | None, secrets: Secrets, *, polling: bool = True) -> None:
        nowhere = Node(name="this machine", address="localhost")
        self._inventory, self._here, self._secrets, self._polling = inventory, here, secrets, polling
        self.here = NodeReach(nowhere, inventory, nowhere.name, secrets, polling=polling)
        """This machine, whether it is one of the cluster's or not."""
        self.clusters = Clusters(inventory, secrets, polling=polling, forward=self._forward)
        """The Kubernetes clusters that nodes belong to."""
        self._nodes = {node.name: self._reach(node) for node in inventory.nodes}

    def _reach(self, node: Node) -> NodeReach:
        return NodeReach(
            node, self._inventory, self._here, self._secrets, polling=self._polling, clusters=self.clusters
        )

    async def __aenter__(self) -> Self:
        for reach in self._nodes.values():
            await reach.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def adopt(self, inventory: Inventory) -> None:
        """Go on with a changed inventory: the way to a node that is reached as before stays open, others are closed."""
        before, self._inventory = self._inventory, inventory
        gone, former = dict(self._nodes), self.clusters
        if inventory.clusters != before.clusters:
            self.clusters = Clusters(inventory, self._secrets, polling=self._polling, forward=self._forward)
        nodes = {}
        for node in inventory.nodes:
            reach = gone.get(node.name)
            same = node.kubernetes is None or self.clusters is former
            if reach is not None and same and reach.leads_to(node):
                del gone[node.name]
                reach.adopt(node, inventory)
            else:
                reach = await self._reach(node).__aenter__()
            nodes[node.name] = reach
        self.here.adopt(self.here.node, inventory)
        self._nodes = nodes
        if self.clusters is not former:
            await former.close()
        await asyncio.gather(*(reach.close() for reach in gone.values()))

    def __getitem__(self, node: str) -> NodeReach:
        return self._nodes[node]

    def known(self, node: str) -> NodeReach:
        """The node of that name; ReachError where the inventory has none."""
        if node not in self._nodes:
            raise ReachError(f'There is no node "{node}".', f"Known: {', '.join(self._nodes) or 'none'}.")
        return self._nodes[node]

    async def resolve_url(self, endpoint: Endpoint, url: str | None = None, *, timeout: float = PATIENCE) -> str:
        """The address to ask from here, as its node has it; unchanged for an endpoint of no node."""
        if endpoint.node is None:
            return url or endpoint.url
        return await self._nodes[endpoint.node].resolve_url(endpoint, url, timeout=timeout)

    def trouble(self, endpoint: Endpoint, url: str | None = None) -> ReachError | None:
        """Why the far end of a `via = "ssh"` address was not reached; None where nothing is known."""
        return None if endpoint.node is None else self._nodes[endpoint.node].trouble(endpoint, url)

    async def _forward(self, node: str, host: str, port: int) -> int:
        """A port of ours that leads to a host and port as a node sees them; the port itself where that is here."""
        return await self._nodes[node].forward(host, port)

    async def close(self) -> None:
        """Close the clusters, then all nodes side by side."""
        await self.clusters.close()
        await asyncio.gather(*(reach.close() for reach in self._nodes.values()))
