"""The rules of health as tables."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.clock import SystemClock
from backends.cluster.files import parse
from backends.cluster.fold import empty, fold, fold_all
from backends.cluster.health import is_off, is_starting, latency_band, rounded_age, tier_state
from backends.cluster.inventory import Inventory
from backends.cluster.reading import (
    EndpointReading,
    Instant,
    MaintenanceReading,
    ModelInfo,
    ProbeResult,
    ProcedureReading,
    ProcedureState,
    Reading,
    Tick,
    Workload,
    WorkloadReading,
)
from backends.cluster.snapshot import ClusterSnapshot, EndpointState
from backends.cluster.words import VERDICT_OF, Cause, State, Verdict
from backends.live import LiveCluster

OK, REFUSED, TIMEOUT, LOADING = Cause.OK, Cause.REFUSED, Cause.TIMEOUT, Cause.LOADING


def inventory(*, on_demand: bool = False, router: str = "") -> Inventory:
    text = f"""
version = 1
name = "t"
[[nodes]]
name = "n"
address = "10.0.0.1"
[[tiers]]
name = "A"
[[tiers]]
name = "B"
[[endpoints]]
name = "a/one"
tier = "A"
node = "n"
engine = "llama.cpp"
url = "http://10.0.0.1:1"
container = "one"
on_demand = {str(on_demand).lower()}
tasks = ["code", "chat"]
[[endpoints]]
name = "a/two"
tier = "A"
engine = "vllm"
url = "http://10.0.0.1:2"
[[endpoints]]
name = "b/three"
tier = "B"
engine = "http"
url = "http://10.0.0.1:3"
{router}
"""
    return parse(text, Path("t.toml")).inventory


def at(seconds: float) -> Instant:
    return Instant(1_000_000 + seconds, seconds)


def probe(cause: Cause, seconds: float, name: str = "a/one") -> EndpointReading:
    return EndpointReading(name, at(seconds), ProbeResult(cause, cause.value.lower(), 0.01), 5.0)


def after(*readings: Reading, **options: bool) -> ClusterSnapshot:
    inv = inventory(**options)  # type: ignore[arg-type]
    return fold_all(inv, empty(inv), readings)


@pytest.mark.parametrize("cause", list(Cause))
def test_the_first_reading_gives_the_verdict(cause: Cause) -> None:
    state = after(probe(cause, 0)).endpoints["a/one"]
    assert (state.verdict, state.cause) == (VERDICT_OF[cause], cause)


@pytest.mark.parametrize(
    ("causes", "verdict", "shown", "fails"),
    [
        ((OK, TIMEOUT), Verdict.UP, OK, 1),
        ((OK, TIMEOUT, TIMEOUT), Verdict.UP, OK, 2),
        ((OK, TIMEOUT, TIMEOUT, TIMEOUT), Verdict.DOWN, TIMEOUT, 3),
        ((OK, TIMEOUT, OK, TIMEOUT, TIMEOUT), Verdict.UP, OK, 2),
        ((OK, REFUSED), Verdict.DOWN, REFUSED, 1),
        ((TIMEOUT, OK), Verdict.DOWN, TIMEOUT, 0),
        ((TIMEOUT, OK, OK), Verdict.UP, OK, 0),
        ((TIMEOUT, OK, TIMEOUT, OK), Verdict.DOWN, TIMEOUT, 0),
        ((OK, Cause.CONFIG, Cause.CONFIG, Cause.CONFIG, Cause.CONFIG), Verdict.DEGRADED, Cause.CONFIG, 0),
        ((OK, Cause.RATE_LIMITED), Verdict.DEGRADED, Cause.RATE_LIMITED, 0),
        ((LOADING, OK), Verdict.UP, OK, 0),
        ((TIMEOUT, LOADING), Verdict.DEGRADED, LOADING, 0),
        ((Cause.BUSY, OK), Verdict.DEGRADED, Cause.BUSY, 0),
        ((Cause.BUSY, OK, OK), Verdict.UP, OK, 0),
        ((OK, Cause.SLEEPING), Verdict.UP, Cause.SLEEPING, 0),
        ((Cause.CONFIG, REFUSED), Verdict.DEGRADED, Cause.CONFIG, 1),
    ],
)
def test_hysteresis(causes: tuple[Cause, ...], verdict: Verdict, shown: Cause, fails: int) -> None:
    state = after(*(probe(cause, i * 5) for i, cause in enumerate(causes))).endpoints["a/one"]
    assert (state.verdict, state.cause, state.fails) == (verdict, shown, fails)


def container(state: str, **more: object) -> WorkloadReading:
    return WorkloadReading("n", at(0), (Workload("one", "docker", state, **more),))  # type: ignore[arg-type]


def test_refused_in_the_start_window_is_loading_and_later_down() -> None:
    young = container("running", started_at=at(0).wall - 10)
    assert after(young, probe(OK, 0), probe(REFUSED, 5)).endpoints["a/one"].cause is LOADING
    old = container("running", started_at=at(0).wall - 1000)
    assert after(old, probe(OK, 0), probe(REFUSED, 5)).endpoints["a/one"].cause is REFUSED


def test_refused_under_a_procedure_is_loading() -> None:
    running = ProcedureState("p", "queue", "n", "t", "me", "running", 0.0, targets=("one",))
    done = ProcedureState("p", "queue", "n", "t", "me", "done", 0.0, targets=("one",))
    assert after(ProcedureReading(at(0), (running,)), probe(REFUSED, 1)).endpoints["a/one"].cause is LOADING
    assert after(ProcedureReading(at(0), (done,)), probe(REFUSED, 1)).endpoints["a/one"].cause is REFUSED


def test_on_demand_and_stopped_on_purpose_is_off_and_left_out() -> None:
    snapshot = after(container("exited", exit_code=0), probe(REFUSED, 1), on_demand=True)
    assert snapshot.endpoints["a/one"].cause is Cause.OFF
    assert snapshot.tiers[0].total == 1
    crashed = after(container("exited", exit_code=1), probe(REFUSED, 1), on_demand=True)
    assert crashed.endpoints["a/one"].cause is REFUSED


def test_unread_for_three_intervals_is_stale_and_the_next_reading_judges_again() -> None:
    inv = inventory()
    snapshot = fold_all(inv, empty(inv), [probe(OK, 0), Tick(at(15))])
    assert snapshot.endpoints["a/one"].cause is OK
    snapshot = fold(inv, snapshot, Tick(at(15.5)))
    assert (snapshot.endpoints["a/one"].cause, snapshot.endpoints["a/one"].verdict) == (Cause.STALE, Verdict.UNKNOWN)
    assert "no reading for" in snapshot.endpoints["a/one"].evidence
    assert fold(inv, snapshot, probe(TIMEOUT, 16)).endpoints["a/one"].cause is TIMEOUT


def test_a_short_silence_is_told_in_its_seconds() -> None:
    inv = inventory()
    often = EndpointReading("a/one", at(0), ProbeResult(OK, "answered", 0.01), 1.0)
    shown = fold_all(inv, empty(inv), [often, Tick(at(3)), Tick(at(4.2)), Tick(at(6))]).endpoints["a/one"]
    later = fold_all(inv, empty(inv), [often, Tick(at(4.2)), Tick(at(12))]).endpoints["a/one"]
    assert (shown.evidence, later.evidence) == ("no reading for 4 s", "no reading for 10 s")


def test_who_hangs_for_his_whole_time_limit_is_not_stale() -> None:
    inv = inventory()
    slow = EndpointReading("a/one", at(0), ProbeResult(Cause.TIMEOUT, "no answer", None), 1.0, limit=8.0)
    snapshot = fold_all(inv, empty(inv), [slow, Tick(at(9.5))])
    assert snapshot.endpoints["a/one"].cause is Cause.TIMEOUT
    assert fold(inv, snapshot, Tick(at(10.5))).endpoints["a/one"].cause is Cause.STALE


def test_a_clock_set_back_makes_nothing_stale() -> None:
    inv = inventory()
    snapshot = fold_all(inv, empty(inv), [probe(OK, 0), Tick(Instant(5.0, 3.0))])
    assert snapshot.endpoints["a/one"].cause is OK


def test_maintenance_is_left_out_and_ends() -> None:
    inv = inventory()
    begun = MaintenanceReading(at(1), {"n": at(60).wall})
    snapshot = fold_all(inv, empty(inv), [probe(OK, 0), begun, probe(REFUSED, 5)])
    assert snapshot.endpoints["a/one"].cause is Cause.MAINTENANCE
    assert snapshot.tiers[0].total == 1
    snapshot = fold_all(inv, snapshot, [Tick(at(61)), probe(OK, 62)])
    assert snapshot.endpoints["a/one"].cause is OK


def test_maintenance_says_until_when_and_can_be_prolonged() -> None:
    inv = inventory()
    snapshot = fold_all(inv, empty(inv), [probe(OK, 0), MaintenanceReading(at(1), {"a/one": 60.0 + at(0).wall})])
    assert snapshot.endpoints["a/one"].until == at(60).wall
    snapshot = fold(inv, snapshot, MaintenanceReading(at(2), {"a/one": 90.0 + at(0).wall}))
    assert snapshot.endpoints["a/one"].until == at(90).wall
    snapshot = fold(inv, snapshot, MaintenanceReading(at(3), {}))
    assert (snapshot.endpoints["a/one"].cause, snapshot.endpoints["a/one"].until) == (None, None)


class Hands(SystemClock):
    """A clock that is set by hand."""

    moment = 0.0

    def now(self) -> Instant:
        return at(self.moment)


def test_after_a_sleep_everything_is_asked_at_once() -> None:
    asked: list[str | None] = []
    clock = Hands()
    live = LiveCluster(inventory(), None, clock, lambda before, after: None, nudge=asked.append)
    live.emit(probe(OK, 0))
    for clock.moment in (0.0, 1.0, 3600.0, 3601.0):
        live.settle()
        cause = live.snapshot.endpoints["a/one"].cause
        assert cause is (OK if clock.moment < 5 else Cause.STALE)
    assert asked == [None]


async def test_what_an_endpoint_says_again_waits_for_what_is_new() -> None:
    folded: list[int] = []
    live = LiveCluster(inventory(), None, Hands(), lambda before, after: None, pace=0.0, calm=3600.0)
    live.record_with(lambda readings, before, after: folded.append(len(readings) - 1))
    running = asyncio.create_task(live.run())
    for cause in (OK, OK, OK, REFUSED):
        live.emit(probe(cause, 0))
        for _ in range(20):
            await asyncio.sleep(0)
    running.cancel()
    assert folded == [1, 3]


@pytest.mark.parametrize(
    ("causes", "state"),
    [
        ((OK, OK), State.HEALTHY),
        ((OK, Cause.SLEEPING), State.HEALTHY),
        ((OK, REFUSED), State.DEGRADED),
        ((Cause.BUSY, REFUSED), State.DEGRADED),
        ((REFUSED, TIMEOUT), State.DOWN),
        ((LOADING, REFUSED), State.DEGRADED),
        ((Cause.STALE, LOADING), State.UNKNOWN),
        ((Cause.STALE, REFUSED), State.UNKNOWN),
        ((None, OK), State.DEGRADED),
        ((Cause.CONFIG, REFUSED), State.DOWN),
        ((Cause.OFF, OK), State.HEALTHY),
        ((Cause.OFF, Cause.MAINTENANCE), State.UNKNOWN),
        ((), State.UNKNOWN),
    ],
)
def test_tiers(causes: tuple[Cause | None, ...], state: State) -> None:
    endpoints = [
        EndpointState(str(i), VERDICT_OF[cause] if cause else Verdict.UNKNOWN, cause) for i, cause in enumerate(causes)
    ]
    assert tier_state("t", endpoints).state is state


@pytest.mark.parametrize(
    ("one", "two", "three", "state", "code", "chat"),
    [
        (OK, OK, OK, State.HEALTHY, "a/one", "a/one"),
        (REFUSED, OK, OK, State.DEGRADED, None, "a/two"),
        (REFUSED, REFUSED, OK, State.DOWN, None, None),
        (REFUSED, Cause.STALE, OK, State.UNKNOWN, None, None),
        (OK, OK, REFUSED, State.DEGRADED, "a/one", "a/one"),
        (LOADING, LOADING, OK, State.DOWN, None, None),
        (Cause.BUSY, OK, OK, State.DEGRADED, "a/one", "a/one"),
    ],
)
def test_prognosis(one: Cause, two: Cause, three: Cause, state: State, code: str | None, chat: str | None) -> None:
    found = after(probe(one, 0), probe(two, 0, "a/two"), probe(three, 0, "b/three")).prognosis
    assert found.state is state
    assert (found.tasks["code"].now, found.tasks["chat"].now) == (code, chat)
    assert list(found.tasks) == ["code", "reason", "chat", "vision", "fast", "embed"]


def test_the_summary_names_the_ill_tier_and_the_work() -> None:
    found = after(probe(REFUSED, 0), probe(OK, 0, "a/two"), probe(REFUSED, 0, "b/three")).prognosis
    assert found.summary == "A is DEGRADED, B is DOWN. chat served by A; code: nobody"


def test_the_router_decides_the_order() -> None:
    inv = inventory(router='[router]\nchat = ["a/two", "a/one"]')
    snapshot = fold_all(inv, empty(inv), [probe(OK, 0), probe(OK, 0, "a/two")])
    assert snapshot.prognosis.tasks["chat"].now == "a/two"
    assert snapshot.prognosis.tasks["chat"].next == ("a/one",)


def test_an_unchanged_reading_gives_an_equal_snapshot() -> None:
    inv = inventory()
    first = fold_all(inv, empty(inv), [probe(OK, 0), Tick(at(1))])
    reading = EndpointReading("a/one", at(5), ProbeResult(OK, "ok", 0.013), 5.0)
    assert fold_all(inv, first, [reading, Tick(at(6))]) == first


def test_models_stay_when_a_probe_did_not_ask() -> None:
    inv = inventory()
    told = EndpointReading("a/one", at(0), ProbeResult(OK, "ok", 0.01, (ModelInfo("m"),)), 5.0)
    snapshot = fold_all(inv, empty(inv), [told, probe(OK, 5)])
    assert [m.name for m in snapshot.endpoints["a/one"].models] == ["m"]


@pytest.mark.parametrize(("seconds", "shown"), [(0, 0), (9.9, 0), (37, 30), (61, 60), (200, 180), (7300, 7200)])
def test_ages_are_rounded(seconds: float, shown: int) -> None:
    assert rounded_age(seconds) == shown


@pytest.mark.parametrize(("latency", "band"), [(None, ""), (0.001, "<10 ms"), (0.2, "<300 ms"), (9, ">3 s")])
def test_latencies_are_banded(latency: float | None, band: str) -> None:
    assert latency_band(latency) == band


@pytest.mark.parametrize(
    ("seconds", "bands"),
    [
        ([0.004, 0.02, 0.004], ["<10 ms", "<10 ms", "<10 ms"]),  # late once
        ([0.004, 0.02, 0.02], ["<10 ms", "<10 ms", "<30 ms"]),
        ([0.5, 0.004, 0.5, 0.5], ["<1 s", "<10 ms", "<10 ms", "<1 s"]),
    ],
)
def test_one_late_answer_is_no_other_latency(seconds: list[float], bands: list[str]) -> None:
    inv, found = inventory(), list[str]()
    snapshot = empty(inv)
    for i, latency in enumerate(seconds):
        snapshot = fold(inv, snapshot, EndpointReading("a/one", at(i), ProbeResult(OK, "answered", latency), 1.0))
        found.append(snapshot.endpoints["a/one"].latency_band)
    assert found == bands


@pytest.mark.parametrize(
    ("workload", "starting"),
    [
        (None, False),
        (Workload("w", "docker", "restarting"), True),
        (Workload("w", "docker", "running", health="starting"), True),
        (Workload("w", "docker", "running", started_at=90.0), True),
        (Workload("w", "docker", "running", started_at=-500.0), False),
        (Workload("w", "docker", "exited", started_at=90.0), False),
    ],
)
def test_start_window(workload: Workload | None, starting: bool) -> None:
    assert is_starting(workload, 100.0) is starting


@pytest.mark.parametrize(
    ("on_demand", "workload", "off"),
    [
        (True, Workload("w", "docker", "exited", exit_code=0), True),
        (True, Workload("w", "docker", "exited", exit_code=137), True),
        (True, Workload("w", "docker", "exited", exit_code=137, oom_killed=True), False),
        (True, Workload("w", "docker", "exited", exit_code=1), False),
        (True, Workload("w", "docker", "created"), True),
        (True, Workload("w", "docker", "running"), False),
        (False, Workload("w", "docker", "exited", exit_code=0), False),
        (True, None, False),
    ],
)
def test_stopped_on_purpose(on_demand: bool, workload: Workload | None, off: bool) -> None:
    assert is_off(on_demand, workload) is off
