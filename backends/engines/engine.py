"""How engines are probed: one health call, and on request what else they say without waking or loading anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from backends.cluster.reading import ProbeResult, Progress
from backends.cluster.words import Cause
from backends.engines.ask import TELLING, Ask
from backends.engines.metrics import Names, progress
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

    async def probe(self, http: Http, target: Target, *, deep: bool, light: bool = False) -> ProbeResult:
        """Its health, and if `deep` its models, version and progress, within `target.timeout`.

        `light` asks for its progress without the rest: where its counters are its own, they stand for its health.

        Never raises but for ReachError, when this machine has no file descriptors left.
        """
        ...


def carried(result: ProbeResult, last_deep: ProbeResult | None) -> ProbeResult:
    """A shallow result together with what the last deep one found, which one good health call cannot contradict."""
    if result.cause is not Cause.OK or last_deep is None or last_deep.cause not in (Cause.OK, Cause.SLEEPING):
        return result
    return replace(
        last_deep, latency=result.latency, progress=result.progress, version=result.version or last_deep.version
    )


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
    names: Names | None = None
    """What it calls its counters, where it has any."""

    @abstractmethod
    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """What an answer to the health call means; None where this engine does not answer so."""

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """What a deep probe finds after a good health call."""
        return health

    def metrics_route(self, target: Target) -> str:
        """Where its metrics are."""
        return target.metrics_url or "/metrics"

    def progress(self, text: str) -> Progress | None:
        """What its metrics say; ProbeFailure where they tell of a trouble."""
        return progress(text, self.names) if self.names else None

    async def counted(self, ask: Ask, found: ProbeResult) -> ProbeResult:
        """What was found, with its progress where it tells that; a remark says where it does not come."""
        text = await ask.aside("metrics", self._metrics(ask))
        return found if text is None else replace(found, progress=self.progress(text))

    async def _metrics(self, ask: Ask, *, share: float = 1.0) -> str | None:
        """Its metrics, within that share of the time left; None where it has none that can be read."""
        try:
            answer = await ask.get(self.metrics_route(ask.target), share=share)
        except ProbeFailure as failure:
            if failure.cause is not Cause.BAD_RESPONSE:
                raise
            ask.remark(f"metrics: {failure.evidence}")
            return None
        return answer.body.decode("utf-8", "replace") if answer.status == 200 else None

    async def _light(self, ask: Ask) -> ProbeResult:
        """Its counters, which prove more than its health call; that one is asked where they do not come."""
        if ask.target.metrics_url is not None:
            result = await self._health(ask)
            return await self.counted(ask, result) if result.cause is Cause.OK else result
        began = perf_counter()
        try:
            text = await self._metrics(ask, share=0.5)
        except ProbeFailure:
            text = None
        found = None if text is None else self.progress(text)
        if found is None:
            return await self._health(ask)
        return ProbeResult(Cause.OK, "answered", latency=perf_counter() - began, progress=found)

    async def probe(self, http: Http, target: Target, *, deep: bool, light: bool = False) -> ProbeResult:
        """See Engine."""
        ask = Ask(http, target)
        try:
            result = await (self._light(ask) if light and not deep else self._health(ask))
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
