"""Work: from an engine's counters to figures, and from figures to "it says it is healthy, but nothing moves".

Pure functions over frozen data; counters may reset, go backwards or stay away, and then just say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor, log10
from typing import Final

from backends.cluster.reading import EndpointReading, Instant, ProbeResult, Progress
from backends.cluster.snapshot import EndpointState, ModelRate, Sample, Work
from backends.cluster.words import Cause

KEEP: Final = 60
"""Samples kept for a sparkline."""

WELL: Final = frozenset({Cause.OK, Cause.BUSY})
"""What an endpoint must say of itself for its counters to be worth judging."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds in which work must move, and how many requests may wait."""

    stalled_after: float = 7.5
    waiting: int = 8


def judged(state: EndpointState, result: ProbeResult, limits: Limits, now: Instant) -> tuple[Cause, str]:
    """Cause and evidence of a reading in the light of its counters; `state` has taken them in already."""
    cause, evidence = result.cause, result.evidence
    if cause not in WELL or state.progress is None:
        return cause, evidence
    if state.frozen is not None:
        long = now.mono - state.frozen.mono >= limits.stalled_after
        if long if result.progress is not None else state.cause is Cause.STALLED:
            return Cause.STALLED, f"answers, but its work stands still: {_requests(state.progress)}"
    waiting = result.progress.waiting if result.progress else None
    if cause is Cause.OK and waiting is not None and waiting > limits.waiting:
        return Cause.BUSY, f"{waiting} requests wait (limit {limits.waiting})"
    return cause, evidence


def _requests(progress: Progress) -> str:
    return f"{progress.running or 0} running, {progress.waiting or 0} waiting, no token"


def with_work(state: EndpointState, reading: EndpointReading) -> EndpointState:
    """An endpoint's figures after one more reading; what is not well does no work."""
    new, now = reading.result.progress, reading.at
    if reading.result.cause not in WELL:
        return replace(state, work=None, progress=None, counted=None, frozen=None)
    if new is None:
        return state
    old = state.progress
    seconds = now.mono - state.counted.mono if old is not None and state.counted is not None else 0.0
    frozen = None
    if new.works:
        frozen = state.frozen or now if old is not None and old.works and old.pulse == new.pulse else now
    rate = _tokens_per_s(old, new, seconds) if old is not None and seconds > 0 else None
    work = Work(
        tokens_per_s=two_digits(rate),
        running=new.running,
        waiting=new.waiting,
        kv_pct=None if new.kv_used is None else min(100, 5 * round(20 * new.kv_used)),
        first_ms=two_digits(_first_ms(old, new)) or (state.work.first_ms if state.work else None),
        models=_rates(old, new, seconds),
    )
    busy = None if new.running is None and new.waiting is None else (new.running or 0) + (new.waiting or 0)
    samples = (*state.samples, Sample(now.mono, work.tokens_per_s, busy, work.kv_pct))[-KEEP:]
    return replace(state, work=work, samples=samples, progress=new, counted=now, frozen=frozen)


def _tokens_per_s(old: Progress, new: Progress, seconds: float) -> float | None:
    """Tokens per second since the last reading; from decoding steps, each of which makes one token per request."""
    if new.steps is not None and old.steps is not None:
        side_by_side = max(1.0, ((old.running or 0) + (new.running or 0)) / 2)
        return _grown(old.steps, new.steps, seconds / side_by_side)
    return _grown(old.tokens, new.tokens, seconds)


def _grown(old: float | None, new: float | None, seconds: float) -> float | None:
    """Growth per second; None where it is not known, or the counter was reset."""
    return None if old is None or new is None or new < old or seconds <= 0 else (new - old) / seconds


def _first_ms(old: Progress | None, new: Progress) -> float | None:
    """The mean time to the first token since the last reading, or since the engine's start."""
    if new.first_s is None or not new.first_n:
        return None
    count, total = new.first_n, new.first_s
    if old is not None and old.first_n is not None and old.first_s is not None and old.first_s <= total:
        count, total = count - old.first_n, total - old.first_s
    return 1000 * total / count if count > 0 else None


def _rates(old: Progress | None, new: Progress, seconds: float) -> tuple[ModelRate, ...]:
    """What each model of a gateway did per minute."""
    if old is None or seconds <= 0:
        return ()
    before = {model.name: model for model in old.models}
    rates = []
    for model in new.models:
        then = before.get(model.name)
        requests = _grown(then.requests if then else 0.0, model.requests, seconds / 60)
        tokens = _grown(then.tokens if then else 0.0, model.tokens, seconds / 60)
        rates.append(ModelRate(model.name, two_digits(requests) or 0.0, two_digits(tokens) or 0.0))
    return tuple(rates)


def two_digits(value: float | None) -> float | None:
    """A figure with two digits that count, so that noise is no news."""
    if value is None or value == 0:
        return value
    return round(value, 1 - floor(log10(abs(value))))
