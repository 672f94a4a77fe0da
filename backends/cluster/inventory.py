"""The inventory: the tables of cluster.toml as one whole, what is looked up in it, and what contradicts itself.

Its attribute docstrings and those of the tables are the manual: `tierdeck schema` prints them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from backends.cluster.fields import Name
from backends.cluster.tables import (
    Alerts,
    Check,
    Cluster,
    Defaults,
    Endpoint,
    Gateway,
    Model,
    Node,
    Table,
    Tier,
)
from backends.cluster.words import TASKS, Task


class Inventory(Table):
    """A whole cluster, as cluster.toml and cluster.d say it is."""

    version: Literal[1]
    """The version of this file's format: 1."""
    name: Name
    """The cluster's name, shown in the header."""
    lock_host: str | None = None
    """The node that keeps the lease while another is unreachable."""
    defaults: Defaults = Defaults()
    """Cadence and limits of all endpoints."""
    clusters: tuple[Cluster, ...] = ()
    """The Kubernetes clusters that nodes belong to."""
    nodes: tuple[Node, ...] = ()
    """The machines."""
    tiers: tuple[Tier, ...] = ()
    """The tiers, in the order in which they are shown."""
    endpoints: tuple[Endpoint, ...] = ()
    """The endpoints, in the order in which they are shown and preferred."""
    checks: tuple[Check, ...] = ()
    """What else deserves a lamp, shown after the endpoints of its tier."""
    models: tuple[Model, ...] = ()
    """The models."""
    router: dict[Task, tuple[str, ...]] = Field(default_factory=dict)
    """For each task the endpoints to ask, the preferred first."""
    gateway: Gateway | None = None
    """The LiteLLM proxy in front."""
    alerts: Alerts = Alerts()
    """Whom `tierdeck watch` tells of changes."""

    @cached_property
    def node_named(self) -> dict[str, Node]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def lamps(self) -> tuple[Endpoint, ...]:
        """The endpoints, and after them the checks as such: all that has a verdict."""
        return (*self.endpoints, *(check.lamp for check in self.checks))

    @cached_property
    def check_named(self) -> dict[str, Check]:
        """The checks by name."""
        return {check.name: check for check in self.checks}

    @cached_property
    def endpoints_on(self) -> dict[str, tuple[Endpoint, ...]]:
        """The endpoints on each node, by its name."""
        found: dict[str, list[Endpoint]] = {node.name: [] for node in self.nodes}
        for endpoint in self.endpoints:
            if endpoint.node is not None:
                found[endpoint.node].append(endpoint)
        return {name: tuple(each) for name, each in found.items()}

    @cached_property
    def gpu_users(self) -> dict[str, tuple[str, ...]]:
        """For each node with GPUs the endpoints on it."""
        on = self.endpoints_on
        return {node.name: tuple(e.name for e in on[node.name]) for node in self.nodes if node.gpus != "none"}

    def kind_of(self, lamp: Endpoint) -> str:
        """What it is: the engine of an endpoint, the kind of a check."""
        check = self.check_named.get(lamp.name)
        return check.kind if check else lamp.engine

    @cached_property
    def endpoint_named(self) -> dict[str, Endpoint]:
        """All that has a verdict, by name."""
        return {endpoint.name: endpoint for endpoint in self.lamps}

    @cached_property
    def endpoints_of(self) -> dict[str, tuple[Endpoint, ...]]:
        """All that has a verdict in each tier, by the tier's name."""
        return {t.name: tuple(e for e in self.lamps if e.tier == t.name) for t in self.tiers}

    def chain(self, task: str) -> tuple[str, ...]:
        """The endpoints that serve `task`, the preferred first: the router's list, else all that name the task."""
        return self.router[task] if task in self.router else self._serving.get(task, ())

    @cached_property
    def _serving(self) -> dict[str, tuple[str, ...]]:
        """The endpoints that name each task."""
        return {task: tuple(e.name for e in self.endpoints if task in e.serves) for task in TASKS}

    @property
    def gateway_endpoint(self) -> Endpoint | None:
        """The endpoint of the proxy in front: the one [gateway] names, else the only one of LiteLLM, else None."""
        if self.gateway is not None:
            return self.endpoint_named.get(self.gateway.endpoint)
        found = [e for e in self.endpoints if e.engine == "litellm"]
        return found[0] if len(found) == 1 else None

    @property
    def assigned_tasks(self) -> tuple[str, ...]:
        """The tasks that at least one endpoint is to serve."""
        return tuple(task for task in TASKS if self.chain(task))

    def runs_containers(self, node: Node) -> bool:
        """Whether a node's Docker is worth asking: the inventory speaks of it, of a queue or of a container there."""
        named = any(e.container for e in self.endpoints_on[node.name])
        return node.may_have_docker and (named or bool(node.queue.order) or node.docker is not None)

    def with_queue_order(self, node: str, order: Sequence[str]) -> Inventory:
        """The same cluster with another start order for one node, as a person arranged it for one run."""
        nodes = tuple(
            n.model_copy(update={"queue": n.queue.model_copy(update={"order": tuple(order)})}) if n.name == node else n
            for n in self.nodes
        )
        told = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_construct(**told | {"nodes": nodes})  # a copy would keep what was cached of the old one

    def interval(self, endpoint: Endpoint) -> float:
        """Seconds between two probes of `endpoint`."""
        return endpoint.interval or self.defaults.interval

    def timeout(self, endpoint: Endpoint) -> float:
        """Seconds one probe of `endpoint` may take."""
        return endpoint.timeout or self.defaults.timeout

    def queue_limit(self, endpoint: Endpoint) -> int:
        """Requests waiting beyond which `endpoint` is BUSY."""
        return self.defaults.queue_limit if endpoint.queue_limit is None else endpoint.queue_limit

    def stalled_after(self, endpoint: Endpoint) -> float:
        """Seconds without any movement after which work at `endpoint` is STALLED: by default at the third look."""
        return endpoint.stalled_after or self.defaults.stalled_after or 1.5 * self.interval(endpoint)

    def slow(self, endpoint: Endpoint) -> float:
        """Seconds over which an answer of `endpoint` counts as slow."""
        return endpoint.slow or self.defaults.slow

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str, str, tuple[str, ...]]]:
        """What does not fit together, as (place, what is wrong, the wrong word, the valid words)."""
        yield from _duplicates("clusters", self.clusters)
        yield from _duplicates("nodes", self.nodes)
        yield from _duplicates("tiers", self.tiers)
        yield from _duplicates("endpoints", self.endpoints)
        yield from _duplicates("checks", self.checks, {endpoint.name for endpoint in self.endpoints})
        yield from _duplicates("models", self.models)
        nodes, endpoints = tuple(self.node_named), tuple(e.name for e in self.endpoints)
        tiers = tuple(tier.name for tier in self.tiers)
        for i, endpoint in enumerate(self.endpoints):
            if endpoint.tier not in tiers:
                yield ("endpoints", i, "tier"), "unknown tier", endpoint.tier, tiers
            if endpoint.node is not None and endpoint.node not in nodes:
                yield ("endpoints", i, "node"), "unknown node", endpoint.node, nodes
            if endpoint.via == "ssh" and endpoint.node is None:
                yield (
                    ("endpoints", i, "via"),
                    'via = "ssh" needs the node to go through; say node = ',
                    "ssh",
                    nodes,
                )
            if endpoint.via == "kubernetes":
                yield from _proxy_mistakes(i, endpoint, self.node_named.get(endpoint.node or ""))
            if endpoint.container and endpoint.service:
                yield (
                    ("endpoints", i, "service"),
                    "either container or service, not both",
                    endpoint.service,
                    (),
                )
        for i, check in enumerate(self.checks):
            yield from _check_mistakes(i, check, tiers, nodes)
        known = tuple(cluster.name for cluster in self.clusters)
        for i, cluster in enumerate(self.clusters):
            if cluster.via is not None and (cluster.via not in nodes or self.node_named[cluster.via].ssh is None):
                yield ("clusters", i, "via"), "no node with ssh of this name:", cluster.via, nodes
            if (cluster.client_certificate is None) != (cluster.client_key is None):
                yield ("clusters", i, "name"), "client_certificate and client_key belong together in", cluster.name, ()
        for i, node in enumerate(self.nodes):
            if node.kubernetes is not None and node.kubernetes.cluster not in known:
                yield ("nodes", i, "kubernetes"), "unknown cluster", node.kubernetes.cluster, known
            if node.wake and node.wake.via is not None and node.wake.via not in nodes:
                yield ("nodes", i, "wake", "via"), "unknown node", node.wake.via, nodes
        if self.lock_host is not None and self.lock_host not in nodes:
            yield ("lock_host",), "unknown node", self.lock_host, nodes
        for task, names in self.router.items():
            for name in names:
                if name not in endpoints:
                    yield ("router", task), "unknown endpoint", name, endpoints
        if self.gateway and self.gateway.endpoint not in endpoints:
            yield ("gateway", "endpoint"), "unknown endpoint", self.gateway.endpoint, endpoints


class Joins(Table):
    """What a file of cluster.d appends to lists of the person's own file."""

    queue: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """For each node the containers that start after those of its order."""
    router: dict[Task, tuple[str, ...]] = Field(default_factory=dict)
    """For each task the endpoints that are asked after those of its list."""


class Joining(Table):
    """A file of cluster.d, as far as it joins."""

    joins: Joins = Joins()
    """What it appends."""


_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "http": ("url",),
    "tcp": ("address",),
    "command": ("command",),
    "age": ("path", "limit"),
    "syncthing": ("url", "folder"),
}
_OF_SOME: Final = ("url", "address", "command", "path", "limit", "folder", "api_key", "via")


def _check_mistakes(
    i: int, check: Check, tiers: tuple[str, ...], nodes: tuple[str, ...]
) -> Iterator[tuple[tuple[str | int, ...], str, str, tuple[str, ...]]]:
    if check.tier not in tiers:
        yield ("checks", i, "tier"), "unknown tier", check.tier, tiers
    if check.node is not None and check.node not in nodes:
        yield ("checks", i, "node"), "unknown node", check.node, nodes
    needed = _NEEDS[check.kind]
    known = (*needed, *(("api_key", "via") if "url" in needed else ()))
    for key in needed:
        if not getattr(check, key):
            yield ("checks", i, "kind"), f"a check of this kind needs {key} =", check.kind, ()
    for key in _OF_SOME:
        if key in check.model_fields_set and key not in known:
            yield ("checks", i, key), f"a check of kind {check.kind} has no such key", key, known
    if check.via and check.node is None:
        yield ("checks", i, "via"), 'via = "ssh" needs the node to go through; say node = ', "ssh", nodes


def _proxy_mistakes(
    i: int, endpoint: Endpoint, node: Node | None
) -> Iterator[tuple[tuple[str | int, ...], str, str, tuple[str, ...]]]:
    if node is None or node.kubernetes is None:
        yield ("endpoints", i, "via"), "needs a node that says kubernetes = to go through:", "kubernetes", ()
    elif (urlsplit(endpoint.url).hostname or "").count(".") != 1:
        yield ("endpoints", i, "url"), "expected a Service, http://NAME.NAMESPACE:PORT, not", endpoint.url, ()


def _duplicates(
    table: str, items: tuple[Cluster | Node | Tier | Endpoint | Check | Model, ...], taken: Iterable[str] = ()
) -> Iterator[tuple[tuple[str | int, ...], str, str, tuple[str, ...]]]:
    seen = set(taken)
    for i, item in enumerate(items):
        if item.name in seen:
            yield (table, i, "name"), "this name is taken already", item.name, ()
        seen.add(item.name)
