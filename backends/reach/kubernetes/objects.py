"""Objects that are declared: by server-side apply, rehearsed by the API's own dry run, and taken back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from backends.errors import RuntimeFailure
from backends.reach.kubernetes.api import MERGE, KubernetesApi
from backends.reach.kubernetes.changes import MARK, NOTE, differences, owned
from backends.reach.kubernetes.shapes import WANTED
from backends.reach.runtime import Rehearsal, Work
from backends.reach.streams import clean
from backends.text import plain

MANAGER: Final = "tierdeck"
"""The field manager we apply by: what is ours of an object is what this name applied."""

APPLY: Final = "application/apply-patch+yaml"
"""The content type of server-side apply; JSON is YAML too."""

GONE_LIMIT: Final = 150.0
"""Seconds until an object that was deleted, and what it made, are gone."""

FRESH_TRIES: Final = 8
"""How often an object is read anew that somebody changed between its reading and its dry run."""

MOST_LINES: Final = 20
"""Log lines of a piece of work that are read at once."""

_PLURALS: Final = {
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Secret": "secrets",
    "Job": "jobs",
    "Deployment": "deployments",
    "Service": "services",
}
_PAUSE: Final = 0.25


def title(thing: Mapping[str, Any]) -> str:
    """An object for people: its kind and name."""
    return f"{thing['kind']} {thing['metadata']['name']}"


def path_of(thing: Mapping[str, Any]) -> str:
    """Where the API has an object."""
    version, meta = str(thing["apiVersion"]), thing["metadata"]
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{group}/namespaces/{meta['namespace']}/{_PLURALS[thing['kind']]}/{meta['name']}"


class Objects:
    """What is declared to the API of one cluster; `stop` and `scale` end a workload and give it replicas."""

    def __init__(
        self, api: KubernetesApi, stop: Callable[[str], Awaitable[None]], scale: Callable[[str, int], Awaitable[None]]
    ) -> None:
        self._api, self._stop, self._scale = api, stop, scale

    async def rehearse(self, thing: Mapping[str, Any]) -> Rehearsal:
        """What applying it would change, by the API's own dry run; a new one is shown without the API's defaults."""
        former, answer = await self._rehearsed(thing)
        if former is None:
            return Rehearsal(differences(None, thing))
        return Rehearsal(differences(former, answer), {k: v for k, v in former.items() if k != "status"})

    async def declare(self, thing: Mapping[str, Any]) -> None:
        """Apply it; a workload whose pods would be made anew is stopped first."""
        former, answer = await self._rehearsed(thing)
        if _replicas(former) and differences(former, answer):
            await self._stop(_workload(thing))
            former = await self._there(thing)
        await self._apply(_as_many(thing, former))

    async def _rehearsed(self, thing: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """What is there, and what applying would make of just that: controllers may write to it between the two."""
        for _ in range(FRESH_TRIES):
            former = await self._there(thing)
            answer = await self._apply(_as_many(thing, former), dry=True)
            if former is None or _version(former) == _version(answer):
                break
        return former, answer

    async def withdraw(self, thing: Mapping[str, Any], former: Mapping[str, Any] | None) -> str:
        """Delete what bears the mark of `thing`, or apply again what we had applied of `former`."""
        there = await self._there(thing)
        ours = there is not None and _mark(there) == _mark(thing)
        if there is None or (not ours and (_replicas(there) or not _replicas(former))):
            return ""
        if former is None:
            await self._remove(thing, there)
            return f"the {title(thing)} is removed"
        if not ours:  # it was stopped, and no more
            return await self._again(thing, former)
        if _replicas(there):
            await self._stop(_workload(thing))
            there = await self._there(thing) or there
        answer = await self._apply(_as_many(owned(former, MANAGER), there))
        left = [line for line in differences(former, answer) if not line.startswith("spec.replicas")]
        if left:
            raise RuntimeFailure(f"The {title(thing)} is not as it was: {'; '.join(left[:4])}.")
        return await self._again(thing, former)

    async def _again(self, thing: Mapping[str, Any], former: Mapping[str, Any]) -> str:
        """Give a workload the replicas that it had; what `stop` remembers of them is not needed then."""
        if count := _replicas(former):
            await self._scale(_workload(thing), count)
            await self._api.send("PATCH", path_of(thing), {"metadata": {"annotations": {WANTED: None}}}, kind=MERGE)
        return f"the {title(thing)} is as it was"

    async def work(self, thing: Mapping[str, Any]) -> Work:
        """How far a Job is, by its conditions, and the last log lines of its newest pod."""
        job = await self._there(thing)
        if job is None or _mark(job) != _mark(thing):
            return Work("missing")
        said = {c.get("type") for c in (job.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
        if "Complete" in said:
            return Work("done")
        return Work("failed" if "Failed" in said else "running", await self._lines(thing))

    async def noted(self, thing: Mapping[str, Any]) -> str:
        """What a claim was filled with."""
        meta = (await self._there(thing) or {}).get("metadata") or {}
        return str((meta.get("annotations") or {}).get(NOTE) or "")

    async def note(self, thing: Mapping[str, Any], words: str) -> None:
        """Say what a claim was filled with."""
        body = {"metadata": {"annotations": {NOTE: words or None}}}
        await self._api.send("PATCH", path_of(thing), body, kind=MERGE)

    async def _there(self, thing: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            return await self._api.get(path_of(thing))
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            raise

    async def _apply(self, thing: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """Without force: what another manager owns and has otherwise is a conflict, and stays."""
        params = {"fieldManager": MANAGER, "force": "false"} | ({"dryRun": "All"} if dry else {})
        return await self._api.send("PATCH", path_of(thing), thing, params=params, kind=APPLY)

    async def _remove(self, thing: Mapping[str, Any], there: Mapping[str, Any]) -> None:
        """Delete exactly this one, and wait until it and its pods are gone."""
        uid = there["metadata"]["uid"]
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            await self._api.send("DELETE", path_of(thing), body)
        except RuntimeFailure as failure:
            if failure.status not in (404, 409):  # it is gone, or another has its name by now
                raise
        for _ in range(math.ceil(GONE_LIMIT / _PAUSE)):
            found = await self._there(thing)
            if found is None or found["metadata"]["uid"] != uid:
                return
            await asyncio.sleep(_PAUSE)
        raise RuntimeFailure(
            f"The {title(thing)} is still there {GONE_LIMIT:.0f} s after it was deleted.",
            "Something holds it: kubectl get -o yaml shows its finalizers; a node that is gone never ends its pods.",
        )

    async def _lines(self, job: Mapping[str, Any]) -> tuple[str, ...]:
        """The last words of a Job's newest pod; none before it has one that runs."""
        meta = job["metadata"]
        pods = f"/api/v1/namespaces/{meta['namespace']}/pods"
        listed = await self._api.get(pods, {"labelSelector": f"batch.kubernetes.io/job-name={meta['name']}"})
        found = sorted(listed.get("items") or (), key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        if not found:
            return ("its pod is not created yet",)
        if waits := _waits(found[-1]):
            return (waits,)
        path = f"{pods}/{found[-1]['metadata']['name']}/log"
        try:
            async with self._api.lines(path, {"tailLines": MOST_LINES}, silence=15.0) as lines:
                return tuple([clean(line) async for line in lines])
        except RuntimeFailure as failure:
            if failure.status in (400, 404):  # its container has not begun yet
                return ()
            return (f"its log cannot be read: {failure.message}",)


def _waits(pod: Mapping[str, Any]) -> str:
    """Why a pod does not run yet, in the words of its node or of the scheduler; "" where it does, or has."""
    status = pod.get("status") or {}
    if status.get("phase") != "Pending":
        return ""
    states = [each.get("state") or {} for each in status.get("containerStatuses") or ()]
    waiting: dict[str, Any] = next((state["waiting"] for state in states if state.get("waiting")), {})
    placed: dict[str, Any] = next((c for c in status.get("conditions") or () if c.get("type") == "PodScheduled"), {})
    why = waiting.get("message") or waiting.get("reason") or placed.get("message") or "not scheduled yet"
    return plain(f"its pod waits: {why}", 300)


def _version(found: Mapping[str, Any]) -> object:
    return found["metadata"].get("resourceVersion")


def _mark(found: Mapping[str, Any]) -> object:
    return (found["metadata"].get("annotations") or {}).get(MARK)


def _workload(thing: Mapping[str, Any]) -> str:
    return f"{thing['metadata']['namespace']}/{thing['metadata']['name']}"


def _replicas(found: Mapping[str, Any] | None) -> int:
    if found is None or found.get("kind") != "Deployment":
        return 0
    return int((found.get("spec") or {}).get("replicas", 1))


def _as_many(thing: Mapping[str, Any], there: Mapping[str, Any] | None) -> dict[str, Any]:
    """The thing with as many replicas as there are: how many is for the start queue, and no conflict with it."""
    spec = thing.get("spec") or {}
    if there is None or "replicas" not in spec:
        return dict(thing)
    return {**thing, "spec": {**spec, "replicas": _replicas(there)}}
