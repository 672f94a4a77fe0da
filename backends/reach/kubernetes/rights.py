"""What we may do in a cluster, so that a key that needs a missing right says so before anything is tried.

Asked by SelfSubjectAccessReview, which every authenticated user may create; a SelfSubjectRulesReview may be incomplete.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from backends.cluster.reading import Workload
from backends.errors import RuntimeFailure
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.shapes import parsed

AGAIN: Final = 60.0
"""Seconds after which a right that was missing, or could not be asked about, is asked about once more."""

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass(frozen=True, slots=True)
class Right:
    """To do something with the resources of a namespace, or with a `part` of them."""

    verb: str
    group: str
    resource: str
    part: str
    namespace: str

    @property
    def what(self) -> str:
        """What is done to what: "update deployments/scale.apps"."""
        part, group = f"/{self.part}" if self.part else "", f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{part}{group}"

    @property
    def words(self) -> str:
        """That it is missing, as the API says it: "may not: update deployments/scale.apps in llm"."""
        return f"may not: {self.what} in {self.namespace}"

    @property
    def review(self) -> dict[str, Any]:
        """The question whether we have it."""
        asked = {"namespace": self.namespace, "verb": self.verb, "group": self.group, "resource": self.resource}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked | ({"subresource": self.part} if self.part else {})},
        }


def needed(workload: str) -> dict[str, Right]:
    """What starting a workload (and stopping it) and reading its log take."""
    namespace, kind, _ = parsed(workload)
    return {
        "start": Right("update", "apps", f"{kind}s", "scale", namespace),
        "logs": Right("get", "", "pods", "log", namespace),
    }


class Rights:
    """Our rights in one cluster: each asked about once, and anew after the API refused something."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._known: dict[Right, tuple[bool | None, float]] = {}
        self._denials = 0
        self._asking = asyncio.Lock()

    async def marked(self, workloads: Iterable[Workload]) -> tuple[Workload, ...]:
        """The workloads with what we may not do to them."""
        needs = {workload: needed(workload.name) for workload in workloads}
        await self._learn({right for rights in needs.values() for right in rights.values()})
        return tuple(
            replace(workload, forbidden=tuple((verb, r.words) for verb, r in rights.items() if self._lacks(r)))
            for workload, rights in needs.items()
        )

    def _lacks(self, right: Right) -> bool:
        return self._known[right][0] is False

    async def _learn(self, rights: set[Right]) -> None:
        async with self._asking:
            if self._api.denials != self._denials:
                self._known.clear()
            now = time.monotonic()
            unknown = [r for r in rights if (known := self._known.get(r)) is None or _outdated(*known, now)]
            answers = await asyncio.gather(*(ask(self._api, right) for right in unknown))
            self._known.update(zip(unknown, ((answer, now) for answer in answers), strict=True))
            self._denials = self._api.denials


async def ask(api: KubernetesApi, right: Right) -> bool | None:
    """Whether we have a right; None where the API does not say, so that nothing is forbidden by a guess."""
    try:
        answer = await api.send("POST", _REVIEWS, right.review)
    except RuntimeFailure:
        return None
    return (answer.get("status") or {}).get("allowed") is True


def _outdated(allowed: bool | None, asked: float, now: float) -> bool:
    return not allowed and now - asked >= AGAIN
