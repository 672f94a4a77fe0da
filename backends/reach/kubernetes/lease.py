"""A lease on a node as a Lease object of its cluster: whoever creates it has it, and its age is the API's."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from backends.errors import RuntimeFailure
from backends.reach.docker_words import timestamp
from backends.reach.kubernetes.cluster import KubernetesCluster
from backends.reach.lease import STALE, Holder, NoPlace, Seen, holder_of

TRIES: Final = 5
"""How often a sign of life is given anew from a fresh read, when somebody else changed the lease meanwhile."""


class LeaseObject:
    """A `coordination.k8s.io` Lease named after the node, in the first namespace that we look into."""

    def __init__(self, cluster: KubernetesCluster, node: str) -> None:
        self._api = cluster.api
        self._node = node
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{cluster.home}/leases"
        self._name = f"tierdeck-{re.sub('[^a-z0-9.-]+', '-', node.lower()).strip('.-')}"[:200]
        self._path = f"{self._folder}/{self._name}"

    @property
    def where(self) -> str:
        """The place, for people."""
        return f"the Lease {self._name} in {self._api.name}"

    async def look(self) -> Seen | None:
        """Who holds it."""
        found = await self._read()
        if found is None:
            return None
        spec = found.get("spec") or {}
        now = self._api.now
        beat = timestamp(spec.get("renewTime")) or 0.0
        since = timestamp(spec.get("acquireTime")) or beat
        return Seen(self._holder(found), max(0.0, now - since), max(0.0, now - beat))

    async def create(self, holder: Holder) -> bool:
        """Take it, unless somebody has; NoPlace where we may not."""
        await self._read()  # the API tells its time with every answer
        now = self._now()
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "annotations": {f"tierdeck/{key}": value for key, value in asdict(holder).items()},
            },
            "spec": {
                "holderIdentity": holder.owner,
                "leaseDurationSeconds": int(STALE),
                "acquireTime": now,
                "renewTime": now,
            },
        }
        try:
            await self._api.send("POST", self._folder, body)
        except RuntimeFailure as failure:
            if failure.status == 409:
                return False
            if failure.status in (403, 404):
                raise NoPlace(failure.message, failure.advice) from failure
            raise
        return True

    async def token(self) -> str | None:
        """Whose it is."""
        found = await self._read()
        return None if found is None else self._holder(found).token

    async def beat(self, token: str) -> bool:
        """Give a sign of life, from a fresh read each time that somebody else was faster."""
        for left in range(TRIES - 1, -1, -1):
            found = await self._read()
            if found is None or self._holder(found).token != token:
                return False
            found["spec"] = {**(found.get("spec") or {}), "renewTime": self._now()}
            try:
                await self._api.send("PUT", self._path, found)
            except RuntimeFailure as failure:
                if failure.status == 404:
                    return False
                if failure.status != 409 or not left:
                    raise
            else:
                return True
        return False

    async def clear(self, token: str) -> bool:
        """End the lease that has this token, as it was read and no other."""
        for _ in range(TRIES):
            found = await self._read()
            if found is None or self._holder(found).token != token:
                return False
            meta = found["metadata"]
            exactly = {"uid": meta.get("uid"), "resourceVersion": meta.get("resourceVersion")}
            try:
                await self._api.send("DELETE", self._path, {"preconditions": exactly})
            except RuntimeFailure as failure:
                if failure.status == 404:
                    return False
                if failure.status != 409:
                    raise
            else:
                return True
        return False

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._api.get(self._path)
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            if failure.status == 403:
                raise NoPlace(failure.message, failure.advice) from failure
            raise

    def _holder(self, found: dict[str, Any]) -> Holder:
        told = (found.get("metadata") or {}).get("annotations") or {}
        return holder_of({key.removeprefix("tierdeck/"): word for key, word in told.items()}, self._node)

    def _now(self) -> str:
        return datetime.fromtimestamp(self._api.now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
