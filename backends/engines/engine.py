"""How engines are probed: one health call, and on request what else they say without waking or loading anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from backends.cluster.reading import ProbeResult
from backends.cluster.words import Cause
from backends.engines.ask import TELLING, Ask
from backends.engines.recognise import by_signs, recognised
from backends.engines.refusals import refusal
from backends.engines.target import HttpAnswer, ProbeFailure, Target
from backends.text import plain

if TYPE_CHECKING:
    from backends.engines.http import Http


class Engine(Protocol):
    """One kind of engine."""

    @property
    def name(self) -> str:
        """The engine's name in cluster.toml."""
        ...

    async def probe(self, http: Http, target: Target, *, deep: bool) -> ProbeResult:
        """Its health, and if `deep` its models, version and progress, within `target.timeout`.

        Never raises but for ReachError, when this machine has no file descriptors left.
        """
        ...


def carried(result: ProbeResult, last_deep: ProbeResult | None) -> ProbeResult:
    """A shallow result together with what the last deep one found, which one good health call cannot contradict."""
    if result.cause is not Cause.OK or last_deep is None or last_deep.cause not in (Cause.OK, Cause.SLEEPING):
        return result
    return replace(last_deep, latency=result.latency, progress=None, version=result.version or last_deep.version)


def stays_deep(result: ProbeResult) -> bool:
    """Whether the next probe should look deep again, because a shallow one could not see that the trouble is over."""
    return result.cause not in (Cause.OK, Cause.SLEEPING, Cause.BUSY)


class HealthFirst(ABC):
    """An engine whose one health call must succeed before anything else is asked."""

    name: str
    route: str
    keyed = False
    """Whether the health call needs the key. Where it does not it goes without: nobody else on that port gets it."""
    specific = True
    """Whether another engine on its port would be a mistake."""

    @abstractmethod
    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """What an answer to the health call means; None where this engine does not answer so."""

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """What a deep probe finds after a good health call."""
        return health

    async def probe(self, http: Http, target: Target, *, deep: bool) -> ProbeResult:
        """See Engine."""
        ask = Ask(http, target)
        try:
            result = await self._health(ask)
        except ProbeFailure as failure:
            return failed(failure)
        if deep and result.cause in (Cause.OK, Cause.SLEEPING):
            result = await self._looked(ask, result)
        return busy(result, target)

    async def _looked(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        try:
            result = await self.look(ask, health)
        except ProbeFailure as failure:
            if failure.cause in TELLING and not failure.internal:
                return replace(failed(failure), latency=health.latency, version=health.version)
            ask.remark(failure.evidence)
            result = health
        return replace(result, evidence=plain("; ".join((result.evidence, *ask.remarks))))

    async def _health(self, ask: Ask) -> ProbeResult:
        answer = await ask.get(self.route, keyed=self.keyed)
        result = self.judge(answer)
        locked = answer.status in (401, 403) and not self.keyed and ask.target.key is not None
        if result is None and locked and by_signs(answer) is None:
            answer = await ask.get(self.route)
            result = self.judge(answer)
        if result is None:
            if self.specific and (other := await recognised(ask, answer, self.name)):
                raise ProbeFailure(Cause.CONFIG, f"{other} answers here, not {self.name}", seconds=answer.seconds)
            raise refusal(answer, self.route, ask.target)
        return result


def failed(failure: ProbeFailure) -> ProbeResult:
    """A failure as the result of its probe."""
    return ProbeResult(failure.cause, failure.evidence, latency=failure.seconds, retry_after=failure.retry_after)


def well(answer: HttpAnswer, *, version: str | None = None) -> ProbeResult:
    """The result of a health call that went well."""
    return ProbeResult(Cause.OK, "answered", latency=answer.seconds, version=version)


def busy(result: ProbeResult, target: Target) -> ProbeResult:
    """The result, BUSY instead of OK where its health call took longer than `target.slow`."""
    if result.cause is not Cause.OK or result.latency is None or result.latency <= target.slow:
        return result
    return replace(
        result, cause=Cause.BUSY, evidence=f"answered only after {result.latency:.1f} s (limit {target.slow:.3g} s)"
    )
