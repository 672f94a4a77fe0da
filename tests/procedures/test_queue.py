"""The start queue against a host whose CUDA driver deadlocks, in virtual time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.words import Cause
from backends.procedures.container import Start
from backends.procedures.events import StepEvent
from backends.procedures.gate import Patience, is_steady
from backends.procedures.kinds import KINDS
from backends.procedures.learned import Learned
from backends.procedures.plan import Danger, Plan, Step
from backends.procedures.runner import Ask, Control, Past, past_of, run
from tests.procedures.host import Box, Host
from tests.procedures.test_runner import Kept, Killed, answering, story
from tests.procedures.virtual import VirtualClock, virtually


def inventory(*names: str) -> Inventory:
    return Inventory.model_validate(
        {
            "version": 1,
            "name": "lumina",
            "nodes": [{"name": "mark", "address": "h", "gpus": "nvidia"}],
            "tiers": [{"name": "R"}],
            "endpoints": [
                {
                    "name": f"remote/{name}",
                    "tier": "R",
                    "node": "mark",
                    "engine": "llama.cpp",
                    "url": f"http://h:{3000 + i}",
                    "container": name,
                }
                for i, name in enumerate(names)
            ],
        }
    )


def plan_for(
    host: Host, *names: str, gap: float = 1.0, patience: float = 60.0, restart: bool = False, hard: float = 3600.0
) -> Plan:
    def step(name: str) -> Step:
        told = Start("mark", name, gpu=host.boxes[name].gpu, gap=gap, patience=patience)
        if restart:
            told = replace(told, restart=True, since=host.boxes[name].started)
        return Step("start_container", f"start {name}", told.to_json(), hard, Danger.CHANGES)

    return Plan("queue", "mark", "queue", tuple(step(name) for name in names), targets=names)


Meanwhile = Callable[[Host], Coroutine[Any, Any, None]]


async def carry(
    host: Host,
    plan: Plan,
    inv: Inventory | None = None,
    *,
    ask: Ask | None = None,
    meanwhile: Meanwhile | None = None,
    journal: Kept | None = None,
    past: Past | None = None,
    control: Control | None = None,
    earlier: Sequence[StepEvent] = (),
    learned: Learned | None = None,
    shares: Callable[[str], AsyncGenerator[float, None]] | None = None,
) -> list[StepEvent]:
    context = host.context(inv if inv is not None else inventory(*host.boxes))
    context = replace(context, targets=plan.targets, learned=learned or Learned())
    if shares is not None:
        context = replace(context, shares=shares)
    if past is not None:
        context.outages.recall(earlier)
    other = asyncio.create_task(meanwhile(host)) if meanwhile else None
    events = run(
        plan,
        KINDS,
        context,
        procedure="p",
        journal=journal if journal is not None else Kept(),
        ask=ask,
        control=control or Control(),
        clock=VirtualClock(),
        past=past or Past(),
    )
    try:
        return [event async for event in events]
    finally:
        if other:
            other.cancel()


def carried(host: Host, plan: Plan, inv: Inventory | None = None, **more: object) -> list[StepEvent]:
    async def go() -> list[StepEvent]:
        try:
            return await carry(host, plan, inv, **more)  # type: ignore[arg-type]
        finally:
            host.close()

    return virtually(go())


def failure(events: Sequence[StepEvent]) -> str:
    return next(event.text for event in events if event.event == "step_failed")


def gates(events: Sequence[StepEvent], step: int) -> list[str]:
    found = [e.detail["gate"] for e in events if e.step == step and isinstance(e.detail, dict) and "gate" in e.detail]
    return list(dict.fromkeys(str(gate) for gate in found))


FIVE = ("a", "b", "c", "d", "e")


def test_started_together_they_hang_so_the_host_is_worth_testing_with() -> None:
    async def go() -> Host:
        host = Host(*(Box(name) for name in FIVE))
        for name in FIVE:
            host.begin(name)
        await asyncio.sleep(600)
        host.close()
        return host

    host = virtually(go())
    assert host.ready_at == {}
    assert host.most_at_once == 5


def test_by_the_queue_all_serve_and_never_two_initialise() -> None:
    host = Host(*(Box(name) for name in FIVE))
    events = carried(host, plan_for(host, *FIVE))
    assert story(events)[-1] == "finished done"
    assert host.most_at_once == 1
    assert [name for _, name in host.starts] == list(FIVE)
    assert set(host.ready_at) == set(FIVE)
    for (_, before), (begun, _) in zip(host.starts, host.starts[1:], strict=False):
        assert begun - host.ready_at[before] >= 1.0 + 2.0


def test_the_queue_itself_costs_less_than_a_twentieth() -> None:
    host = Host(*(Box(name) for name in FIVE), readable=False)
    virtual: list[float] = []

    async def go() -> None:
        await carry(host, plan_for(host, *FIVE, gap=0.5))
        virtual.append(asyncio.get_running_loop().time())
        host.close()

    virtually(go())
    assert virtual[0] <= 1.05 * (5 * 2.0 + 5 * 0.5)


def test_the_gate_says_what_it_waits_for() -> None:
    host = Host(Box("a", load=20.0, wobble=4.0))
    events = carried(host, plan_for(host, "a"))
    assert gates(events, 0) == ["ready", "vram", "gap"]
    outputs = [e.detail for e in events if e.event == "output" and isinstance(e.detail, dict)]
    loading = [o for o in outputs if "503 Loading model" in str(o.get("text"))]
    assert 15 <= len(loading) <= 25
    assert all(isinstance(o["waited_s"], float) and o["limit_s"] == 60.0 for o in loading)
    assert loading[-1]["vram_mib"] > loading[0]["vram_mib"]  # type: ignore[operator]
    logs = [line for o in outputs for line in o.get("log", [])]  # type: ignore[union-attr]
    assert logs == [f"loaded {i} of 10" for i in range(1, 11)]
    assert next(e for e in events if e.event == "step_done").text.startswith("ready after 2")


def test_what_is_ready_is_left_alone() -> None:
    host = Host(Box("a"), Box("b"))

    async def go() -> list[StepEvent]:
        host.begin("a")
        await asyncio.sleep(60)
        events = await carry(host, plan_for(host, "a", "b"))
        host.close()
        return events

    events = virtually(go())
    assert story(events)[0] == "step_skipped 0"
    assert "left alone" in events[0].text
    assert [name for _, name in host.starts] == ["a", "b"]
    assert host.stops == []


def test_vram_that_cannot_be_read_is_said() -> None:
    host = Host(Box("a"), readable=False)
    events = carried(host, plan_for(host, "a"))
    assert "VRAM cannot be read: ready and gap only" in next(e.text for e in events if e.event == "step_done")


def test_vram_that_does_not_settle_is_a_warning_after_15_s() -> None:
    host = Host(Box("a", wobble=60.0), Box("b"))
    events = carried(host, plan_for(host, "a", "b"))
    assert story(events)[-1] == "finished done"
    assert "VRAM still moved after 15 s" in next(e.text for e in events if e.event == "step_done")
    assert host.starts[1][0] - host.ready_at["a"] >= 15


def test_a_cpu_container_waits_for_nobody() -> None:
    host = Host(Box("cpu", gpu=False, load=1.0), Box("hung", hangs=True))

    async def go() -> list[StepEvent]:
        host.begin("hung")
        events = await carry(host, plan_for(host, "cpu", gap=0.0))
        host.close()
        return events

    events = virtually(go())
    assert story(events)[-1] == "finished done"
    assert host.ready_at["cpu"] < 2
    assert "vram" not in gates(events, 0)


async def _someone_starts(host: Host, name: str) -> None:
    host.begin(name)


@pytest.mark.parametrize("healthcheck", [True, False])
@pytest.mark.parametrize("endpoint", [True, False])
def test_it_waits_for_a_stranger_that_is_not_ready(healthcheck: bool, endpoint: bool) -> None:
    host = Host(Box("a"), Box("stranger", init=8.0, load=4.0, healthcheck=healthcheck))
    inv = inventory("a", "stranger") if endpoint else inventory("a")
    events = carried(host, plan_for(host, "a"), inv, meanwhile=lambda h: _someone_starts(h, "stranger"))
    assert story(events)[-1] == "finished done"
    assert host.most_at_once == 1
    assert host.starts[1][0] >= 12.0
    assert any("waiting for stranger" in e.text for e in events)
    assert gates(events, 0)[0] == "waiting"


def test_nothing_is_started_behind_a_hang_and_it_is_named() -> None:
    host = Host(Box("a"), Box("stranger", hangs=True))
    events = carried(host, plan_for(host, "a", patience=30.0), meanwhile=lambda h: _someone_starts(h, "stranger"))
    assert story(events)[-1] == "finished halted"
    assert "stranger runs, is not ready" in failure(events)
    assert "a is not started behind it" in failure(events)
    assert [name for _, name in host.starts] == ["stranger"]


def test_a_hang_skipped_by_a_person_still_lets_nothing_start_behind_it() -> None:
    host = Host(Box("a", hangs=True), Box("b"))
    events = carried(host, plan_for(host, "a", "b", patience=20.0), ask=answering("skip", "hold"))
    assert "a hangs: running, silent for 20 s, VRAM flat at 300 MiB; most likely in CUDA" in failure(events)
    assert "docker stop a" in failure(events)
    assert story(events)[-1] == "finished halted"
    assert [name for _, name in host.starts] == ["a"]


def test_after_the_hang_was_stopped_retry_goes_on() -> None:
    host = Host(Box("a", hangs=True), Box("b"))

    async def ask(question: object) -> str:
        host.end("a")
        host.boxes["a"].hangs = False
        return "retry"

    events = carried(host, plan_for(host, "a", "b", patience=20.0), ask=ask)
    assert story(events)[-1] == "finished done"
    assert [name for _, name in host.starts] == ["a", "a", "b"]


def test_a_slow_start_that_makes_progress_is_waited_for() -> None:
    host = Host(Box("a", load=400.0))
    events = carried(host, plan_for(host, "a", patience=50.0))
    assert story(events)[-1] == "finished done"
    host = Host(Box("a", load=400.0))
    assert story(carried(host, plan_for(host, "a", patience=30.0)))[-1] == "finished halted"


def test_behind_endless_progress_stands_the_hard_limit() -> None:
    host = Host(Box("a", chatter=1.0, ready_cause=Cause.LOADING))
    events = carried(host, plan_for(host, "a", patience=60.0, hard=300.0))
    assert "not done within 300 s" in failure(events)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (Box("a", exits_after=1.0, exit_code=2, says=("bad flag --nope",)), r'exited with code 2\..*"bad flag --nope"'),
        (Box("a", exits_after=1.0, exit_code=137, oom=True), r"code 137, out of memory.*Give it more memory"),
        (Box("a", exits_after=1.0, says=("RuntimeError: CUDA out of memory.",)), r"GPU's memory is not enough"),
        (Box("a", exits_after=0.2, policy="always"), r"keeps restarting \(\d times\)"),
        (Box("a", refuses="driver failed: Bind for 0.0.0.0:3009 failed: port is already allocated"), r"port is taken"),
        (
            Box("a", refuses='could not select device driver "" with capabilities: [[gpu]]'),
            r"no driver for GPUs.*Toolkit",
        ),
        (Box("a", refuses="No such image: vllm:latest"), r"image is missing.*docker pull"),
        (Box("a", refuses="write /var/lib: no space left on device"), r"disk is full"),
        (Box("a", refuses="something never seen"), r"was not started: .*something never seen"),
        (Box("a", ready_cause=Cause.CONFIG), r"answers, but not as it should: CONFIG"),
        (Box("a", ready_cause=Cause.BAD_RESPONSE), r"not ready and has made no progress.*left alone"),
        (Box("a", ready_cause=Cause.UNREACHABLE), r"UNREACHABLE"),
    ],
)
def test_trouble_is_named(box: Box, words: str) -> None:
    host = Host(box, Box("b"))
    events = carried(host, plan_for(host, "a", "b", patience=30.0))
    assert story(events)[-1] == "finished halted"
    assert re.search(words, failure(events)), failure(events)
    assert "b" not in [name for _, name in host.starts]


def test_what_answers_and_then_dies_did_not_start() -> None:
    async def kill(host: Host) -> None:
        await asyncio.sleep(3)
        assert "a" in host.ready_at
        host.end("a")

    host = Host(Box("a"))
    events = carried(host, plan_for(host, "a", gap=10.0), meanwhile=kill)
    assert "a exited" in failure(events)


@pytest.mark.parametrize("when", [0.5, 2.0])
def test_removed_or_renamed_meanwhile(when: float) -> None:
    async def remove(host: Host) -> None:
        await asyncio.sleep(when)
        host.end("b")
        host.boxes["c"] = host.boxes.pop("b")

    host = Host(Box("a"), Box("b", init=5.0))
    plan = plan_for(host, "a", "b") if when == 0.5 else plan_for(host, "b")
    events = carried(host, plan, inventory("a", "b"), meanwhile=remove)
    assert "b is not there any more" in failure(events)


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_line_lost_in_mid_start_is_looked_at_and_the_start_not_repeated_blindly(lost: str) -> None:
    host = Host(Box("a"), Box("b"))
    host.loses_next_start = lost
    events = carried(host, plan_for(host, "a", "b"))
    assert story(events)[-1] == "finished done"
    assert [name for _, name in host.starts] == ["a", "b"]
    assert any("not sure that it was started" in e.text for e in events)


def test_a_daemon_that_goes_away_and_comes_back_is_waited_for() -> None:
    async def restart(host: Host) -> None:
        await asyncio.sleep(1.0)
        host.down = True
        await asyncio.sleep(20.0)
        host.down = False

    host = Host(Box("a"), Box("b"))
    events = carried(host, plan_for(host, "a", "b"), meanwhile=restart)
    assert story(events)[-1] == "finished done"
    assert any("cannot look" in e.text for e in events)


@pytest.mark.parametrize("at", [0.02, 0.1, 1.0, 4.0, 4.6, 5.1])
def test_what_comes_up_with_the_daemon_is_waited_for(at: float) -> None:
    async def restart(host: Host) -> None:
        await asyncio.sleep(at)
        host.down = True
        await asyncio.sleep(10.0)
        host.begin("stranger")
        host.down = False

    host = Host(Box("a"), Box("b"), Box("stranger", init=6.0))
    events = carried(host, plan_for(host, "a", "b"), meanwhile=restart)
    assert story(events)[-1] == "finished done"
    assert host.most_at_once == 1
    assert [name for _, name in host.starts].count("b") == 1


def test_a_daemon_that_stays_away_halts_it() -> None:
    async def stop(host: Host) -> None:
        await asyncio.sleep(1.0)
        host.down = True

    host = Host(Box("a"), Box("b"))
    events = carried(host, plan_for(host, "a", "b", patience=30.0), meanwhile=stop)
    assert story(events)[-1] == "finished halted"
    assert "Docker on mark does not answer" in failure(events)


def test_restart_stops_first_and_waits_for_the_memory_to_come_back() -> None:
    host = Host(Box("a"), Box("b"))

    async def go() -> list[StepEvent]:
        host.begin("a")
        await asyncio.sleep(60)
        plan = plan_for(host, "a", restart=True)
        events = await carry(host, plan)
        again = await carry(host, plan)
        assert story(again) == ["step_skipped 0", "finished done"]
        host.close()
        return events

    events = virtually(go())
    assert story(events)[-1] == "finished done"
    assert [name for _, name in host.stops] == ["a"]
    assert [name for _, name in host.starts] == ["a", "a"]
    assert host.starts[1][0] - host.stops[0][0] >= 2.0


@pytest.mark.parametrize("at", [0.01, 0.5, 1.7, 2.5, 4.3, 6.0])
def test_cancelled_now_the_container_is_left_alone(at: float) -> None:
    control = Control()

    async def cancel(host: Host) -> None:
        await asyncio.sleep(at)
        control.cancel()
        control.cancel()

    host = Host(Box("a"), Box("b"))
    events = carried(host, plan_for(host, "a", "b"), meanwhile=cancel, control=control)
    assert story(events)[-1] == "finished cancelled"
    assert host.stops == []


def test_cancelled_once_the_second_is_not_begun() -> None:
    control = Control()

    async def cancel(host: Host) -> None:
        await asyncio.sleep(0.5)
        control.cancel()

    host = Host(Box("a"), Box("b"))
    events = carried(host, plan_for(host, "a", "b"), meanwhile=cancel, control=control)
    assert story(events)[-2:] == ["step_done 0", "finished cancelled"]
    assert [name for _, name in host.starts] == ["a"]


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("edge", range(1, 21))
def test_killed_at_any_line_and_resumed_at_once_nothing_starts_twice_and_never_two_initialise(
    edge: int, written: bool
) -> None:
    async def go() -> Host:
        host = Host(*(Box(name) for name in "abc"))
        plan = plan_for(host, *"abc")
        dying = Kept(die_at=edge, written=written)
        with pytest.raises(Killed):
            await carry(host, plan, journal=dying)
        again = await carry(host, plan, past=past_of(dying.events))
        assert story(again)[-1] == "finished done"
        host.close()
        return host

    host = virtually(go())
    assert host.most_at_once == 1
    assert [name for _, name in host.starts] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("samples", "steady"),
    [
        ([], False),
        ([(0.0, (1.0,))], False),
        ([(0.0, (1.0,)), (1.9, (1.0,))], False),
        ([(0.0, (1.0,)), (1.0, (1.0,)), (2.0, (1.0,))], True),
        ([(0.0, (100.0,)), (1.0, (150.0,)), (2.0, (164.0,))], True),
        ([(0.0, (100.0,)), (1.0, (150.0,)), (2.0, (165.0,))], False),
        ([(0.0, (900.0,)), (1.0, (100.0,)), (2.0, (100.0,)), (3.0, (100.0,))], True),
        ([(0.0, (1.0, 1.0)), (2.0, (1.0, 99.0))], False),
    ],
)
def test_steady(samples: list[tuple[float, tuple[float, ...]]], steady: bool) -> None:
    assert is_steady(samples) is steady


def test_patience_counts_only_the_seconds_without_progress() -> None:
    async def go() -> None:
        clock = VirtualClock()
        patience = Patience(clock, 10.0)
        patience.see("log", 0)
        for count in range(1, 6):
            await asyncio.sleep(9)
            patience.see("log", count)
            assert not patience.exhausted
        assert patience.waited == 45
        await asyncio.sleep(10)
        patience.see("log", 5)
        assert patience.exhausted

    virtually(go())
