"""Looks into a Kubernetes cluster: its GPU nodes, and the engines behind its Services; nothing is changed there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from backends.cluster.engines import ENGINES, EngineName
from backends.cluster.inventory import Inventory
from backends.cluster.tables import Cluster
from backends.discovery.engines import Identity, by_image, identify
from backends.engines.http import Http
from backends.errors import ReachError
from backends.reach.clusters import Clusters
from backends.secrets import Secrets

if TYPE_CHECKING:
    from backends.reach.kubernetes.api import KubernetesApi
    from backends.reach.kubernetes.serving import Door, Serving
    from backends.reach.kubernetes.shapes import Host, Pod

HOME: Final = "home"
"""What a cluster is called whose context was not named."""

MOST_DOORS: Final = 4
"""Ports of one workload that are asked."""

LIMIT: Final = 60.0
"""Seconds for all lists of a cluster."""

Gpus = Literal["nvidia", "amd", "none"]


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A node of a cluster; `queue` are its GPU workloads, those that run first."""

    name: str
    address: str
    gpus: Gpus = "none"
    queue: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundService:
    """An engine behind a Service; `proxied` where only the API leads to it. It is asked by `url` from here."""

    name: str
    engine: EngineName
    url: str
    node: str
    workload: str
    image: str
    proxied: bool = False
    running: bool = True
    locked: bool = False


@dataclass(frozen=True, slots=True)
class FoundCluster:
    """What a cluster told; `remarks` is what could not be seen, or serves and is no endpoint."""

    name: str
    context: str = ""
    namespaces: tuple[str, ...] = ()
    nodes: tuple[FoundNode, ...] = ()
    services: tuple[FoundService, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Told:
    """What the API listed."""

    serving: Sequence[Serving]
    pods: Sequence[Pod]
    hosts: dict[str, Host]
    addresses: dict[str, str]


@asynccontextmanager
async def opened(context: str, namespaces: Sequence[str] = ()) -> AsyncGenerator[Clusters, None]:
    """The cluster of a context ("": the current one), under the name that `look_into` is to be told."""
    name = context or HOME
    table = Cluster(name=name, context=context or None, namespaces=tuple(namespaces))
    clusters = Clusters(Inventory(version=1, name=name, clusters=(table,)), Secrets())
    try:
        yield clusters
    finally:
        await clusters.close()


async def look_into(clusters: Clusters, http: Http, context: str = "", namespaces: Sequence[str] = ()) -> FoundCluster:
    """What can be found in a cluster; ReachError where its workloads cannot be listed."""
    name = context or HOME
    async with asyncio.timeout(LIMIT):
        told, remarks = await _told(clusters[name].api, namespaces)

    async def through_api(url: str) -> int:
        return await clusters.service(name, url)

    asked = await asyncio.gather(*(_service(each, told, http, through_api) for each in told.serving))
    services = [found for found in asked if isinstance(found, FoundService)]
    remarks += [words for words in asked if isinstance(words, str)]
    nodes = _nodes(told, services)
    return FoundCluster(name, context, tuple(namespaces), nodes, tuple(_unique(name, services)), tuple(remarks))


async def _told(api: KubernetesApi, namespaces: Sequence[str]) -> tuple[_Told, list[str]]:
    from backends.reach.kubernetes import shapes
    from backends.reach.kubernetes.serving import serving

    parts = [f"/namespaces/{name}" for name in namespaces] or [""]
    remarks: list[str] = []
    ingresses: list[dict[str, Any]] = []
    services = await _all(api, [f"/api/v1{part}/services" for part in parts])
    try:
        ingresses = await _all(api, [f"/apis/networking.k8s.io/v1{part}/ingresses" for part in parts])
    except ReachError as error:
        remarks.append(str(error))
    found = []
    for kind in ("deployment", shapes.STATEFUL):
        items = await _all(api, [f"/apis/apps/v1{part}/{kind}s" for part in parts])
        found += [serving(item, kind, services, ingresses) for item in items]
    found = [each for each in found if each.what.gpus or by_image(each.what.image)]
    names, pods, hosts, addresses = {each.what.name for each in found}, [], {}, {}
    for part in parts:
        async for page in api.pages(f"/api/v1{part}/pods"):
            seen = (shapes.pod(item) for item in page.get("items") or ())
            pods += [pod for pod in seen if pod is not None and pod.owner in names]
    try:
        for item in await _all(api, ["/api/v1/nodes"]):
            host = shapes.host(item)
            hosts[host.name], addresses[host.name] = host, shapes.address(item)
    except ReachError as error:
        remarks.append(str(error))
    return _Told(found, pods, hosts, addresses), remarks


async def _all(api: KubernetesApi, paths: Sequence[str]) -> list[dict[str, Any]]:
    return [item for path in paths async for page in api.pages(path) for item in page.get("items") or ()]


async def _service(
    each: Serving, told: _Told, http: Http, through_api: Callable[[str], Awaitable[int]]
) -> FoundService | str | None:
    """The engine of a workload; words where it has GPUs and nothing leads to an engine of ours, None for the others."""
    from backends.reach.kubernetes.shapes import fits

    what, hint = each.what, by_image(each.what.image)
    pods = [pod for pod in told.pods if pod.owner == what.name and pod.node]
    usual = ENGINES[hint].ports if hint else ()
    doors = sorted(each.doors, key=lambda door: door.target not in usual)[:MOST_DOORS]
    if not doors:
        return f"{what.name} has no Service, so it is no endpoint." if what.gpus else None
    node = pods[0].node if pods else next((h.name for h in told.hosts.values() if fits(what, h)), "")
    if not node:
        return f"{what.name} fits no node, so it is no endpoint."
    for door in doors if pods else ():
        answer = await _ask(door, told.addresses.get(node, node), http, through_api)
        if answer is not None and answer[1].engine is not None:
            url, identity = answer
            return FoundService(
                what.bare, answer[1].engine, url, node, what.name, what.image, url == door.url, locked=identity.locked
            )
    if hint is None:
        return f"{what.name} ({what.image}) is no engine that is known." if what.gpus else None
    ready = any(pod.ready for pod in pods)
    return FoundService(what.bare, hint, doors[0].url, node, what.name, what.image, proxied=True, running=ready)


async def _ask(
    door: Door, address: str, http: Http, through_api: Callable[[str], Awaitable[int]]
) -> tuple[str, Identity] | None:
    """What answers at a door, and by which address: from outside where that leads there, else through the API."""
    for url in door.outside:
        direct = url.replace("//NODE:", f"//{address}:")
        found = await identify(http, direct)
        if found is not None and found.engine is not None:
            return direct, found
    try:
        found = await identify(http, f"http://127.0.0.1:{await through_api(door.url)}")
    except ReachError:
        return None
    return None if found is None else (door.url, found)


def _nodes(told: _Told, services: Sequence[FoundService]) -> tuple[FoundNode, ...]:
    """The nodes that have GPUs, or on which something of what was found runs."""
    used = {found.node for found in services}
    names = sorted(used | {name for name, host in told.hosts.items() if host.capacity})
    return tuple(
        FoundNode(name, told.addresses.get(name, name), _gpus(told.hosts.get(name)), _queue(told, services, name))
        for name in names
    )


def _gpus(host: Host | None) -> Gpus:
    names = " ".join(host.capacity) if host else ""
    return "nvidia" if "nvidia.com/" in names else "amd" if "amd.com/" in names else "none"


def _queue(told: _Told, services: Sequence[FoundService], node: str) -> tuple[str, ...]:
    here = {found.workload for found in services if found.node == node}
    on_gpu = [each.what.name for each in told.serving if each.what.gpus and each.what.name in here]
    begun = {pod.owner: pod.started_at or 0.0 for pod in told.pods if pod.running}
    return tuple(sorted(on_gpu, key=lambda name: (name not in begun, begun.get(name, 0.0), name)))


def _unique(cluster: str, services: Sequence[FoundService]) -> list[FoundService]:
    """The engines by names of endpoints; with their namespace where two would have the same."""
    bare = [found.name for found in services]
    named = []
    for found in services:
        name = found.name if bare.count(found.name) == 1 else found.workload.replace("/", "-")
        named.append(replace(found, name=f"{'gateway' if found.engine == 'litellm' else cluster}/{name}"))
    return named
