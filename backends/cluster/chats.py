"""What prompts sent from here tell of an endpoint: when to leave it alone for a while, and how fast it answers.

Pure functions over frozen data. The numbers are LiteLLM's own: 5 s of cool-down, 3 failures allowed in a minute.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from backends.cluster.reading import ChatReading, Instant
from backends.cluster.snapshot import Cooling, EndpointState
from backends.cluster.words import Cause

COOLDOWN: Final = 5.0
"""Seconds for which an endpoint is left alone."""

ALLOWED_FAILS: Final = 3
"""Failures within WINDOW that are put up with; the next one cools the endpoint down."""

WINDOW: Final = 60.0
"""Seconds in which failures are counted."""

AT_ONCE: Final = frozenset({Cause.REFUSED, Cause.UNREACHABLE, Cause.DNS, Cause.TLS, Cause.RATE_LIMITED})
"""What cools down at once: nobody listens, or the endpoint itself asks to be left alone."""


def after_chat(state: EndpointState, reading: ChatReading) -> EndpointState:
    """An endpoint after one more prompt; CONFIG says nothing about it, for then prompt or key are wrong."""
    now = reading.at
    if reading.cause is Cause.OK:
        return replace(state, failed=(), cooling=None, pace=_pace(state.pace, reading.tokens_per_s))
    if reading.cause is Cause.CONFIG:
        return state
    failed = (*(at for at in state.failed if now.mono - at < WINDOW), now.mono)
    if reading.cause not in AT_ONCE and len(failed) <= ALLOWED_FAILS:
        return replace(state, failed=failed)
    seconds = COOLDOWN if reading.retry_after is None else reading.retry_after
    until = Instant(now.wall + seconds, now.mono + seconds)
    words = f"{reading.cause.value.lower().replace('_', ' ')}: {reading.evidence}"
    return replace(state, failed=failed, cooling=Cooling(until, words))


def cooled(state: EndpointState, now: Instant) -> EndpointState:
    """An endpoint as time passes: its cool-down may be over."""
    over = state.cooling is not None and now.mono >= state.cooling.until.mono
    return replace(state, cooling=None) if over else state


def _pace(before: float | None, now: float | None) -> float | None:
    """A mean in which the latest answer counts for a third."""
    return before if now is None else now if before is None else before + (now - before) / 3
