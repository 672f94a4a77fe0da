"""The rules of health: from probe results to verdicts, from verdicts to tiers.

Pure functions over frozen data; DESIGN names them and the tests are their tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from backends.cluster.reading import EndpointReading, Instant, Workload
from backends.cluster.snapshot import EndpointState, TierState
from backends.cluster.tables import Defaults
from backends.cluster.words import LEFT_OUT, VERDICT_OF, Cause, State, Verdict
from backends.cluster.work import Limits, judged, with_work

STALE_AFTER: Final = 3.0
"""How many of its current intervals an endpoint may go unread before it is STALE."""

GRACE: Final = 1.0
"""Seconds by which a probe that used up its whole time limit may still be late on a busy machine."""

START_WINDOW: Final = 180.0
"""Seconds after a container's start in which a refused connection means LOADING."""

STOPPED_ON_PURPOSE: Final = frozenset({0, 137, 143})
"""Exit codes of a container that was stopped: by itself, by SIGKILL, by SIGTERM."""

_BANDS: Final = ((0.01, "<10 ms"), (0.03, "<30 ms"), (0.1, "<100 ms"), (0.3, "<300 ms"), (1.0, "<1 s"), (3.0, "<3 s"))


def latency_band(latency: float | None, before: float | None = None) -> str:
    """A latency in one of seven bands, so that jitter is no news: of it and the one before, the shorter counts."""
    if latency is None:
        return ""
    if before is not None:
        latency = min(latency, before)
    return next((band for limit, band in _BANDS if latency < limit), ">3 s")


def rounded_age(seconds: float) -> int:
    """An age as it is drawn: by ten seconds under a minute, by minutes under an hour, then by hours."""
    step = 10 if seconds < 60 else 60 if seconds < 3600 else 3600
    return max(0, int(seconds // step) * step)


def next_state(
    state: EndpointState,
    reading: EndpointReading,
    rules: Defaults,
    *,
    starting: bool = False,
    off: bool = False,
    limits: Limits | None = None,
) -> EndpointState:
    """An endpoint after one more reading: hysteresis, refusals in a start window, on-demand stops.

    `starting`: its container runs inside its start window, or a procedure works on it. `off`: on demand and stopped
    on purpose. `limits` are those of its work.
    """
    result = reading.result
    state = with_work(state, reading)
    cause, evidence = judged(state, result, limits or Limits(), reading.at)
    if cause in (Cause.REFUSED, Cause.RESET) and starting:
        cause, evidence = Cause.LOADING, f"starting: {evidence}"
    elif VERDICT_OF[cause] is Verdict.DOWN and off:
        cause, evidence = Cause.OFF, "stopped on purpose; started on demand"
    fails, successes = _counted(state, cause)
    verdict, shown, words = VERDICT_OF[cause], cause, evidence
    if _waits(state, cause, fails, successes, rules):
        verdict, shown, words = state.verdict, state.cause or cause, evidence
    if verdict is Verdict.UP:
        successes = 0
    changed = verdict is not state.verdict or state.since is None
    return replace(
        state,
        verdict=verdict,
        cause=shown,
        evidence=words,
        latency=result.latency,
        latency_band=latency_band(result.latency, state.latency),
        models=result.models if result.models is not None else state.models,
        version=result.version or state.version,
        fails=fails,
        successes=successes,
        ever_up=state.ever_up or verdict is Verdict.UP,
        taken=reading.at,
        interval=reading.interval,
        limit=reading.limit,
        unread=None,
        since=reading.at if changed else state.since,
        age=0 if changed else state.age,
        turned=reading.at if state.cause not in (None, shown) else state.turned,
    )


def _counted(state: EndpointState, cause: Cause) -> tuple[int, int]:
    verdict = VERDICT_OF[cause]
    if verdict is Verdict.DOWN:
        return state.fails + 1, 0
    return 0, state.successes + 1 if verdict is Verdict.UP else 0


def _waits(state: EndpointState, cause: Cause, fails: int, successes: int, rules: Defaults) -> bool:
    """Whether the verdict stays for now although this reading says otherwise."""
    verdict = VERDICT_OF[cause]
    if state.taken is None or state.cause in (None, Cause.STALE) or state.cause in LEFT_OUT or verdict is state.verdict:
        return False
    if verdict is Verdict.DOWN:
        at_once = cause is Cause.STALLED or (cause is Cause.REFUSED and state.ever_up)
        return not at_once and fails < rules.down_after
    if verdict is Verdict.UP:
        return state.cause is not Cause.LOADING and successes < rules.up_after
    return False


def with_age(state: EndpointState, now: Instant) -> EndpointState:
    """An endpoint as time passes without a reading: shown ages, and STALE after three of its intervals."""
    if state.taken is None or state.since is None:
        return state
    unread = now.mono - state.taken.mono
    age = rounded_age(now.mono - state.since.mono)
    due = max(STALE_AFTER * state.interval, state.interval + state.limit + GRACE)
    if state.cause not in LEFT_OUT and unread > due and state.interval > 0:
        overdue = rounded_age(unread)
        words = f"no reading for {overdue or round(unread)} s"
        if state.cause is Cause.STALE:
            return state if overdue == state.unread else replace(state, unread=overdue, evidence=words, age=age)
        return replace(
            state, verdict=Verdict.UNKNOWN, cause=Cause.STALE, evidence=words, unread=overdue, since=now, age=0,
            fails=0, successes=0,
        )  # fmt: skip
    return state if age == state.age else replace(state, age=age)


def is_starting(workload: Workload | None, wall: float) -> bool:
    """Whether a container runs inside its start window, so that a refused connection is LOADING."""
    if workload is None or not workload.running:
        return workload is not None and workload.astir
    if workload.health == "starting":
        return True
    return workload.started_at is not None and 0 <= wall - workload.started_at < START_WINDOW


def is_off(on_demand: bool, workload: Workload | None) -> bool:
    """Whether an on-demand workload is stopped on purpose."""
    if not on_demand or workload is None or workload.oom_killed:
        return False
    if workload.state == "created":
        return True
    return workload.state == "exited" and workload.exit_code in STOPPED_ON_PURPOSE


def tier_state(name: str, endpoints: Sequence[EndpointState]) -> TierState:
    """The state of a tier from its endpoints; those OFF or under MAINTENANCE are left out."""
    counted = [e for e in endpoints if e.cause not in LEFT_OUT]
    up = sum(e.verdict is Verdict.UP for e in counted)
    if not counted:
        state = State.UNKNOWN
    elif up == len(counted):
        state = State.HEALTHY
    elif any(e.serving for e in counted):
        state = State.DEGRADED
    elif any(e.verdict is Verdict.UNKNOWN for e in counted):
        state = State.UNKNOWN
    elif any(e.cause is Cause.LOADING for e in counted):
        state = State.DEGRADED
    else:
        state = State.DOWN
    return TierState(name, state, up, len(counted))
