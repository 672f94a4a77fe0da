"""The Deployments and StatefulSets of one node as a Runtime: seen by watches, started and stopped by their scale."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from backends.cluster.reading import Device, Workload
from backends.cluster.words import KUBERNETES
from backends.errors import ReachError, RuntimeFailure
from backends.reach.docker_words import timestamp
from backends.reach.kubernetes import preflight, shapes, words
from backends.reach.kubernetes.api import MERGE
from backends.reach.kubernetes.cluster import KubernetesCluster
from backends.reach.kubernetes.objects import Objects
from backends.reach.kubernetes.refusals import is_withheld
from backends.reach.kubernetes.shapes import HELD, WANTED, Controller, Host, Pod
from backends.reach.runtime import RuntimeEvent
from backends.reach.streams import clean

TRIES: Final = 5
"""How often a change is made anew from a fresh read, when somebody else changed the same thing meanwhile."""

STOP_LIMIT: Final = 120.0
"""Seconds for the pods of a workload to be gone, beyond the grace they are given."""

READY_LIMIT: Final = 1800.0
"""Seconds for one replica of several to be ready before the next is let in."""

QUIET_LOG: Final = 3600.0
"""Seconds of silence after which a followed log is taken for dead."""

_GLANCE: Final = 0.25


class KubernetesRuntime:
    """What runs on `node` (its name in the API) of a cluster; `named` are the workloads that the inventory names there.

    Workloads go by NAMESPACE/NAME, StatefulSets by NAMESPACE/statefulset/NAME.
    """

    kind = KUBERNETES

    def __init__(self, cluster: KubernetesCluster, node: str, named: frozenset[str] = frozenset()) -> None:
        self._cluster = cluster
        self._api = cluster.api
        self._node = node
        self._named = named
        self.objects = Objects(self._api, self.stop, self._scale)
        """What is declared to its API."""

    async def version(self) -> str:
        """The version of the API server, such as v1.35.6."""
        return str((await self._api.get("/version")).get("gitVersion", ""))

    async def workloads(self) -> tuple[Workload, ...]:
        """Those of the node; RuntimeFailure where the API does not know the node, or the node is not ready."""
        seen = await self._cluster.seen()
        here = seen.hosts.get(self._node)
        if here is None and seen.hosts:
            raise RuntimeFailure(
                f"{self._api.name} has no node {self._node}.",
                f"It has: {', '.join(sorted(seen.hosts)[:8])}. Say kubernetes = {{ cluster, node }} in cluster.toml.",
            )
        if here is not None and not here.ready:
            raise RuntimeFailure(
                f"{self._node} is NotReady in {self._api.name}: {here.why}.", "What its pods do is not known."
            )
        found = await self._cluster.rights.marked(words.workloads(seen, self._node, self._named))
        return await self._cluster.noted(seen, found)

    def withheld(self) -> tuple[str, ...]:
        """What is not told of workloads beside their state, and why."""
        return self._cluster.withheld()

    async def devices(self) -> tuple[Device, ...]:
        """The GPUs that the scheduler hands out on the node, and to whom."""
        return words.devices(await self._cluster.seen(), self._node)

    async def state(self, name: str) -> Workload:
        """One workload, freshly asked, wherever its pods are; `state` is "missing" where there is none of that name."""
        what = await self._find(name)
        if what is None:
            return Workload(name=name, runtime=self.kind, state="missing")
        pods = await self._pods(what)
        seen = words.Seen()
        if any(not pod.node for pod in pods):  # why it is pending is told with the others in mind
            seen = await self._cluster.seen()
        return words.workload(seen, what, pods)

    async def start(self, name: str) -> None:
        """Raise its replicas to one, or, one after the other, to as many as it had; a pod that is stuck is made anew.

        With no replicas, an update that we paused goes on: there is nothing of the former template beside it.

        The API is asked first, by a dry run, whether such a pod may be created at all: a quota or an admission rule
        that forbids it is named, and then nothing was changed.
        """
        what = await self._must(name)
        wanted = max(what.wanted, 1)
        if what.held and not what.replicas:
            await self._patch(what, {"metadata": {"annotations": {HELD: None}}, "spec": {"paused": None}})
        if what.replicas:
            await asyncio.gather(*(self._delete(pod) for pod in await self._pods(what) if pod.stuck))
        for count in range(what.replicas + 1, wanted + 1):
            await preflight.refuse_pod(self._api, await self._api.get(what.path))
            await self._scale(name, count)
            if count < wanted:
                await self._until_ready(what, count)
        if what.wanted:
            await self._patch(what, {"metadata": {"annotations": {WANTED: None}}})

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Lower its replicas to none, and wait until its pods are gone; each is given its own grace, not `grace`.

        How many it had, if several, is remembered on itself.
        """
        what = await self._must(name)
        await self._lower(what)
        for _ in range(math.ceil((STOP_LIMIT + grace) / _GLANCE)):
            if not await self._pods(what):
                return
            await asyncio.sleep(_GLANCE)
        raise RuntimeFailure(
            f"The pods of {name} are still there {STOP_LIMIT + grace:.0f} s after they were told to end.",
            "Look at what holds them: kubectl describe pod; a node that is gone never says that they ended.",
        )

    @asynccontextmanager
    async def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AsyncGenerator[AsyncIterator[str], None]:
        """The log of its newest pod that runs, freed of control sequences."""
        pods = [p for p in await self._pods(await self._must(name)) if p.node]
        if not pods:
            raise RuntimeFailure(f"{name} has no pod on a node, so there is no log.", status=404)
        pod = max(pods, key=lambda p: (not p.deleting, p.created))
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/log"
        params = {"container": pod.container, "tailLines": tail, "follow": str(follow).lower()}
        async with (
            self._api.lines(path, params, silence=QUIET_LOG if follow else 15.0) as lines,
            aclosing(lines),
            aclosing(_cleaned(lines)) as cleaned,
        ):
            yield cleaned

    @asynccontextmanager
    async def events(self, *, since: float | None = None) -> AsyncGenerator[AsyncIterator[RuntimeEvent], None]:
        """What the cluster says of the pods of this node's workloads; ends when the connection does."""
        seen = await self._cluster.seen()
        parts = self._cluster.namespaces
        path = f"/api/v1/namespaces/{parts[0]}/events" if len(parts) == 1 else "/api/v1/events"
        params: dict[str, Any] = {"watch": "true"}
        if since is None:
            first = await self._api.get(path, {"limit": 1})
            params["resourceVersion"] = str((first.get("metadata") or {}).get("resourceVersion") or "0")
        async with (
            self._api.lines(path, params, silence=None) as lines,
            aclosing(lines),
            aclosing(self._events(lines, seen, since or 0.0)) as events,
        ):
            yield events

    async def _events(
        self, lines: AsyncIterator[str], seen: words.Seen, since: float
    ) -> AsyncGenerator[RuntimeEvent, None]:
        own = {w.name: w.gpu for w in words.workloads(seen, self._node, self._named)}
        try:
            async for line in lines:
                event = _event(line)
                name = next((n for n in own if event and _about(n, event)), "")
                if event and name and event.at >= since:
                    yield RuntimeEvent(event.at, name, event.action, own[name], event.id)
        except ReachError:
            return

    async def examine(self, wanted: preflight.Wanted) -> preflight.Found:
        """Whether a deployment can be had here; RuntimeFailure for the first thing that is in the way."""
        try:
            host, devices = await self.host(), await self.devices()
        except RuntimeFailure as failure:
            if not is_withheld(failure):
                raise
            host, devices = None, ()
        return await preflight.examine(self._api, host, devices, wanted)

    async def hold_update(self, name: str) -> None:
        """Have a rolling update go no further, and remember that it was us."""
        await self._patch(
            await self._must(name), {"metadata": {"annotations": {HELD: "true"}}, "spec": {"paused": True}}
        )

    # -- the node itself -----------------------------------------------------------------------------------------------

    async def host(self) -> Host:
        """The node as the API has it, freshly asked."""
        return shapes.host(await self._api.get(self._host_path))

    async def cordon(self, *, on: bool) -> None:
        """Have nothing new placed on the node, or allow it again."""
        told = {"spec": {"unschedulable": on or None}}
        await self._api.send("PATCH", self._host_path, told, kind=MERGE)

    async def lower(self, names: Sequence[str]) -> tuple[str, ...]:
        """Lower to none what asks for GPUs and runs here alone, without waiting: the node may be away."""
        seen, done = await self._cluster.seen(), []
        for name in names:
            what = seen.controllers.get(name)
            nodes = {pod.node for pod in seen.of(name) if pod.node}
            if what is not None and what.gpus and what.replicas and nodes == {self._node}:
                await self._lower(what)
                done.append(name)
        return tuple(done)

    async def evictable(self) -> tuple[str, ...]:
        """The pods that a drain moves away, as NAMESPACE/NAME; those of DaemonSets and of the node itself stay."""
        listed = [page async for page in self._api.pages("/api/v1/pods", f"spec.nodeName={self._node}")]
        return tuple(sorted(name for page in listed for item in page.get("items") or () if (name := self._moves(item))))

    async def evict(self, pod: str) -> bool:
        """Ask for a pod to be moved away; False where a disruption budget does not allow it yet."""
        namespace, _, name = pod.partition("/")
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
        try:
            await self._api.send("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", body)
        except RuntimeFailure as failure:
            if failure.status not in (404, 429):
                raise
            return failure.status == 404
        return True

    @property
    def _host_path(self) -> str:
        return f"/api/v1/nodes/{self._node}"

    def _moves(self, item: Mapping[str, Any]) -> str:
        meta, status = item.get("metadata") or {}, item.get("status") or {}
        owners = {owner.get("kind") for owner in meta.get("ownerReferences") or ()}
        over = status.get("phase") in ("Succeeded", "Failed")
        if over or owners & {"DaemonSet", "Node"}:
            return ""
        return f"{meta.get('namespace')}/{meta.get('name')}"

    async def _delete(self, pod: Pod) -> None:
        try:
            path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
            await self._api.send("DELETE", path, {"preconditions": {"uid": pod.uid}})
        except RuntimeFailure as failure:
            if failure.status not in (404, 409):  # it is gone, or another has its name by now
                raise

    # -- small things --------------------------------------------------------------------------------------------------

    async def _find(self, name: str) -> Controller | None:
        namespace, kind, bare = shapes.parsed(name)
        if not namespace:
            return None
        try:
            data = await self._api.get(f"/apis/apps/v1/namespaces/{namespace}/{kind}s/{bare}")
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            raise
        return shapes.controller(data, kind)

    async def _must(self, name: str) -> Controller:
        what = await self._find(name)
        if what is None:
            raise RuntimeFailure(
                f"{self._api.name} has no workload {name}.",
                "It is named NAMESPACE/NAME: correct cluster.toml, or deploy it.",
                status=404,
            )
        return what

    async def _pods(self, what: Controller) -> list[Pod]:
        path = f"/api/v1/namespaces/{what.namespace}/pods"
        listed = await self._api.get(path, {"labelSelector": what.selector})
        found = (shapes.pod(item) for item in listed.get("items") or ())
        return [p for p in found if p and p.owner == what.name and p.phase not in ("Succeeded", "Failed")]

    async def _lower(self, what: Controller) -> None:
        """Lower its replicas to none; how many it had, if several, is remembered on itself."""
        most = max(what.replicas, what.wanted)
        if most > 1:
            await self._patch(what, {"metadata": {"annotations": {WANTED: str(most)}}})
        await self._scale(what.name, 0)

    async def _patch(self, what: Controller, change: Mapping[str, Any]) -> None:
        await self._api.send("PATCH", what.path, change, kind=MERGE)

    async def _scale(self, name: str, count: int) -> None:
        """Have so many replicas; where somebody else changes it meanwhile, anew from a fresh read."""
        for left in range(TRIES - 1, -1, -1):
            path = f"{(await self._must(name)).path}/scale"
            scale = await self._api.get(path)
            if ((scale.get("spec") or {}).get("replicas") or 0) == count:
                return
            try:
                await self._api.send("PUT", path, {**scale, "spec": {"replicas": count}})
            except RuntimeFailure as failure:
                if failure.status != 409 or not left:
                    raise
            else:
                return

    async def _until_ready(self, what: Controller, count: int) -> None:
        """Let no further replica in before these are ready."""
        for _ in range(math.ceil(READY_LIMIT / _GLANCE)):
            if sum(pod.ready for pod in await self._pods(what)) >= count:
                return
            await asyncio.sleep(_GLANCE)
        raise RuntimeFailure(
            f"{count} of {what.wanted} replicas of {what.name} are not ready after {READY_LIMIT:.0f} s.",
            "No more are let in; look at its pods: kubectl describe pod",
            status=408,
        )


async def _cleaned(lines: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    async for line in lines:
        yield clean(line)


def _event(line: str) -> RuntimeEvent | None:
    """An event of the API; `name` is what it is about, as NAMESPACE/NAME."""
    try:
        item = json.loads(line)["object"]
        about = item["involvedObject"]
        at = timestamp(item.get("lastTimestamp") or item.get("eventTime")) or 0.0
        name = f"{about.get('namespace', '')}/{about['name']}"
        return RuntimeEvent(at, name, str(item.get("reason", "")), id=str(about.get("uid", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _about(workload: str, event: RuntimeEvent) -> bool:
    """Whether an event is about a workload or a pod of it, by their names."""
    namespace, _, bare = shapes.parsed(workload)
    return event.name == f"{namespace}/{bare}" or event.name.startswith(f"{namespace}/{bare}-")
