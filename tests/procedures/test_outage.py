"""A Docker that restarts in mid-queue: all that ran goes with it, and some of it comes back by itself, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from backends.cluster.reading import Workload
from backends.errors import RuntimeFailure, SshError
from backends.procedures.container import Start
from backends.procedures.events import StepEvent
from backends.procedures.outage import Outages
from backends.procedures.plan import Plan, Step
from backends.procedures.runner import past_of
from tests.procedures.host import Box, Host
from tests.procedures.test_queue import carry, failure, plan_for
from tests.procedures.test_runner import Kept, Killed, story
from tests.procedures.virtual import virtually

Meanwhile = Callable[[Host], Coroutine[Any, Any, None]]

MOMENTS = [0.01, 0.4, 1.4, 1.9, 2.6, 4.1, 4.6, 4.9, 5.3, 6.4, 7.2, 9.3, 11.0, 13.7]
"""Seconds: before a start, in CUDA initialisation, while loading, while VRAM settles, in the gap; of each container."""


@pytest.mark.parametrize(
    ("ran", "runs", "swept"),
    [
        ({}, {}, False),
        ({"mark-i": 1.0}, {}, True),
        ({"mark-i": 1.0}, {"mark-i": 1.0}, False),
        ({"mark-i": 1.0}, {"mark-i": 9.0}, True),
        ({"mark-i": 1.0, "mark-iii": 2.0}, {"mark-iii": 2.0}, False),
        ({"mark-i": 1.0, "mark-iii": 2.0}, {"mark-iii": 9.0}, True),
        ({"mark-ii": 3.0}, {}, False),
    ],
)
def test_a_docker_that_was_away_unseen_has_swept_all_beside_the_one(
    ran: dict[str, float], runs: dict[str, float], swept: bool
) -> None:
    def workloads(started: dict[str, float]) -> dict[str, Workload]:
        return {name: Workload(name, "docker", "running", started_at=at) for name, at in started.items()}

    outages = Outages()
    outages.remember(workloads(ran))
    assert outages.swept(workloads(runs), "mark-ii") is swept


def restarting(*at: float, seconds: float = 3.0, answers: float = 0.0) -> Meanwhile:
    async def go(host: Host) -> None:
        for moment in at:
            await asyncio.sleep(moment)
            await host.restart_docker(seconds, answers)

    return go


def all_ready(host: Host) -> bool:
    return all(box.phase == "ready" for box in host.boxes.values())


def queued(host: Host, *names: str, meanwhile: Meanwhile, before: tuple[str, ...] = ()) -> list[StepEvent]:
    """Run the queue; `before` ran already, one after the other."""

    async def go() -> list[StepEvent]:
        for name in before:
            host.begin(name)
            await asyncio.sleep(60)
        events = await carry(host, plan_for(host, *names), meanwhile=meanwhile)
        assert all_ready(host) == (events[-1].outcome == "done")
        host.close()
        return events

    return virtually(go())


@pytest.mark.parametrize("at", MOMENTS)
@pytest.mark.parametrize("policy", ["no", "always", "unless-stopped"])
@pytest.mark.parametrize("answers", [0.0, 0.5, 1.5])
def test_the_queue_goes_on_and_in_the_end_all_serve(at: float, policy: str, answers: float) -> None:
    host = Host(*(Box(name, policy=policy) for name in "abc"))
    events = queued(host, *"abc", meanwhile=restarting(at, answers=answers))
    assert story(events)[-1] == "finished done"
    assert host.beside == 0


@pytest.mark.parametrize("at", [1.0, 5.5, 8.0])
@pytest.mark.parametrize("policy", ["no", "always"])
def test_so_it_does_if_docker_restarts_twice(at: float, policy: str) -> None:
    host = Host(*(Box(name, policy=policy) for name in "abc"))
    events = queued(host, *"abc", meanwhile=restarting(at, 4.0))
    assert story(events)[-1] == "finished done"
    assert host.beside == 0


@pytest.mark.parametrize("at", [0.5, 2.5, 4.3])
@pytest.mark.parametrize("policy", ["no", "always"])
def test_what_ran_before_runs_again_whoever_it_belongs_to(at: float, policy: str) -> None:
    host = Host(Box("a"), Box("b"), Box("mine", policy=policy), Box("yours", policy=policy), Box("stopped"))
    del host.boxes["stopped"]
    host.boxes["idle"] = Box("idle", gpu=False, state="exited")

    async def go() -> list[StepEvent]:
        for name in ("mine", "yours"):
            host.begin(name)
            await asyncio.sleep(60)
        events = await carry(host, plan_for(host, "a", "b"), meanwhile=restarting(at))
        assert {n: box.phase for n, box in host.boxes.items()} == dict.fromkeys("ab", "ready") | {
            "mine": "ready",
            "yours": "ready",
            "idle": "",
        }
        host.close()
        return events

    events = virtually(go())
    assert story(events)[-1] == "finished done"
    assert host.beside == 0
    if policy == "always":
        assert any("restarted by themselves with Docker" in e.text for e in events)
        assert {name for _, name in host.stops} & {"mine", "yours"} == {"yours"}, "the first goes on"


def test_what_came_up_by_itself_and_is_ready_by_then_is_left_alone() -> None:
    async def slow(host: Host) -> None:
        await asyncio.sleep(0.5)
        host.down = True
        host.end("a")
        host.end("x")
        host.begin("x")
        await asyncio.sleep(30)
        host.down = False

    host = Host(Box("a"), Box("b"), Box("x", policy="always"))
    events = queued(host, "a", "b", meanwhile=slow, before=("x",))
    assert story(events)[-1] == "finished done"
    assert host.stops == []
    assert [name for _, name in host.starts].count("x") == 2


def test_a_line_that_drops_stops_and_starts_nothing() -> None:
    async def drop(host: Host) -> None:
        for _ in range(3):
            await asyncio.sleep(1.3)
            host.down = True
            await asyncio.sleep(2.0)
            host.down = False

    host = Host(*(Box(name, policy="always") for name in "abc"), Box("x", policy="always"))
    events = queued(host, *"abc", meanwhile=drop, before=("x",))
    assert story(events)[-1] == "finished done"
    assert host.stops == []
    assert [name for _, name in host.starts] == ["x", "a", "b", "c"]


def test_what_a_person_starts_while_the_line_is_down_is_waited_for() -> None:
    async def person(host: Host) -> None:
        await asyncio.sleep(1.0)
        host.down = True
        await asyncio.sleep(4.0)
        host.begin("theirs")
        host.down = False

    host = Host(Box("a"), Box("b"), Box("theirs", init=8.0))
    events = queued(host, "a", "b", meanwhile=person)
    assert story(events)[-1] == "finished done"
    assert host.stops == []
    assert host.beside == 0


def test_a_docker_that_goes_away_again_and_again_is_named() -> None:
    host = Host(Box("a"))
    events = queued(host, "a", meanwhile=restarting(*[1.0] * 12, seconds=2.0))
    assert story(events)[-1] == "finished halted"
    assert "mark's Docker went away 5 times while a started" in failure(events)


def test_one_that_dies_of_itself_after_an_outage_is_named_and_not_started_again_and_again() -> None:
    host = Host(Box("a"), Box("b"))

    async def bad(host: Host) -> None:
        await asyncio.sleep(1.0)
        host.boxes["a"].exits_after = 1.0
        await host.restart_docker(2.0)

    events = queued(host, "a", "b", meanwhile=bad)
    assert "a exited with code" in failure(events)
    assert [name for _, name in host.starts] == ["a", "a"]


@pytest.mark.parametrize("taken_along", [True, False])
def test_what_was_left_alone_is_started_again_only_if_docker_took_it_along(taken_along: bool) -> None:
    async def meanwhile(host: Host) -> None:
        await asyncio.sleep(0.5)
        if taken_along:
            await host.restart_docker()
        else:
            host.end("a")

    host = Host(Box("a"), Box("b"), Box("c"))

    async def go() -> list[StepEvent]:
        for name in "ac":
            host.begin(name)
            await asyncio.sleep(60)
        steps = [
            Step("leave_alone", "a", Start("mark", "a").to_json()),
            Step("start_container", "b", Start("mark", "b").to_json()),
            Step("leave_alone", "c", Start("mark", "c").to_json()),
        ]
        events = await carry(host, Plan("queue", "mark", "t", tuple(steps), targets=("b",)), meanwhile=meanwhile)
        assert [host.boxes[name].phase for name in "abc"] == ["ready" if taken_along else "", "ready", "ready"]
        host.close()
        return events

    events = virtually(go())
    assert story(events)[0] == "step_skipped 0"
    assert "left alone" in events[0].text


@pytest.mark.parametrize("edge", range(3, 36))
def test_killed_while_it_is_put_right_and_resumed_what_ran_before_runs_again(edge: int) -> None:
    async def go() -> None:
        host = Host(Box("a", policy="always"), Box("b"), Box("x", policy="always"), Box("y", policy="always"))
        for name in "xy":
            host.begin(name)
            await asyncio.sleep(60)
        plan = plan_for(host, "a", "b")
        dying = Kept(die_at=edge)
        docker = asyncio.create_task(restarting(1.0)(host))
        try:
            await carry(host, plan, journal=dying)
        except Killed:
            await docker
            again = await carry(host, plan, past=past_of(dying.events), earlier=dying.events)
            assert story(again)[-1] == "finished done", again[-1]
        stopped_by_us = any(isinstance(e.detail, dict) and "stopped" in e.detail for e in dying.events)
        if stopped_by_us or not host.stops:
            assert all_ready(host), {n: b.phase for n, b in host.boxes.items()}
        assert host.beside == 0
        host.close()

    virtually(go())


def test_an_outage_begins_with_the_first_failure_and_a_refusal_is_an_answer() -> None:
    outages = Outages()

    def ask(error: Exception | None) -> int:
        try:
            with outages.watched():
                if error:
                    raise error
        except (SshError, RuntimeFailure):
            pass
        return outages.count

    refusal = RuntimeFailure("no such container", status=404)
    silence = RuntimeFailure("Docker does not answer.")
    assert [ask(e) for e in (None, refusal, silence, silence, SshError("x"), refusal, silence, None, None)] == [
        0, 0, 1, 1, 1, 1, 2, 2, 2,
    ]  # fmt: skip


def test_by_itself_means_a_policy_and_another_start_than_was_seen() -> None:
    outages = Outages()
    seen = Workload("x", "docker", "running", started_at=5.0, gpu=True, restart_policy="always")
    outages.remember({"x": seen})
    assert not outages.by_itself("x", seen)
    later = Workload("x", "docker", "running", started_at=9.0, gpu=True, restart_policy="always")
    assert outages.by_itself("x", later)
    assert not outages.by_itself("x", Workload("x", "docker", "running", started_at=9.0))
    outages.began("x", 9.0)
    assert not outages.by_itself("x", later)
    assert outages.gone([]) == {"x"}
    outages.remember({})
    assert outages.gone([]) == set()
    assert outages.taken_along([]) == {"x"}
    outages.remember({})
    assert outages.taken_along([]) == set()
    outages.recall([StepEvent(1.0, "p", "output", 0, {"stopped": ["x", "y"]})])
    outages.recall([StepEvent(1.0, "p", "output", 0, {"again": "x"}), StepEvent(1.0, "p", "output", 0, ["again"])])
    assert outages.owed == ["y"]
    assert outages.unsettled
