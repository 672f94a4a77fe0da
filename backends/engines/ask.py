"""The requests of one probe, within its one time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel, ValidationError

from backends.cluster.words import Cause
from backends.engines.refusals import refusal
from backends.engines.target import HttpAnswer, ProbeFailure, Target

if TYPE_CHECKING:
    from backends.engines.http import Http

Payload = TypeVar("Payload", bound=BaseModel)
Found = TypeVar("Found")

TELLING: Final = frozenset({Cause.CONFIG, Cause.RATE_LIMITED, Cause.LOADING, Cause.BAD_RESPONSE})
"""What a look beyond a good health call may find that changes the cause; anything else is said beside it."""


class Ask:
    """The requests of one probe: they share one time limit, and collect remarks for its evidence."""

    def __init__(self, http: Http, target: Target) -> None:
        self.http = http
        self.target = target
        self.remarks: list[str] = []
        self._until = asyncio.get_running_loop().time() + target.timeout

    async def get(self, route: str, *, keyed: bool = True, share: float = 1.0) -> HttpAnswer:
        """The answer at `route` of the target (or at a whole address, which gets no key), whatever its status.

        It may take that `share` of the time left.
        """
        target = self.target
        left = self._until - asyncio.get_running_loop().time()
        if left <= 0:
            raise ProbeFailure(Cause.TIMEOUT, f"no time left of {target.timeout:.3g} s")
        own = route.startswith("/") or not route
        return await self.http.get(
            target.url + route if own else route,
            timeout=left * share,
            headers=target.headers if keyed and own else None,
            via=target.via if own else None,
        )

    async def read(self, route: str, shape: type[Payload]) -> Payload:
        """The JSON at `route`; ProbeFailure where the answer is another."""
        return self.payload(await self.get(route), route, shape)

    def payload(self, answer: HttpAnswer, route: str, shape: type[Payload]) -> Payload:
        """What `answer` says; ProbeFailure where it is not the JSON that is due at `route`."""
        payload = parsed(answer, shape) if answer.status == 200 else None
        if payload is None:
            raise refusal(answer, route, self.target)
        return payload

    async def aside(self, route: str, found: Awaitable[Found]) -> Found | None:
        """What a call beside the point found; where it failed for lack of time or connection, a remark says so."""
        try:
            return await found
        except ProbeFailure as failure:
            if failure.cause not in TELLING:
                self.remark(f"{route}: {failure.evidence}")
            return None

    def remark(self, words: str) -> None:
        """Say `words` in the evidence; only the first failure is told, for it takes the time of all others."""
        if not self.remarks:
            self.remarks.append(words)


def parsed(answer: HttpAnswer, shape: type[Payload]) -> Payload | None:
    """The body as `shape`; None where it is not that."""
    try:
        return shape.model_validate_json(answer.body)
    except ValidationError:
        return None
