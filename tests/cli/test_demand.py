"""On-demand models as people and scripts ask for them: `tierdeck up`, and a prompt that needs one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.procedures.used import Used
from backends.simulator.cluster import SimulatedCluster
from tests.cli.driving import Ran, Terminal, started, tierdeck, until
from tests.cli.shelf import RUNNING, running, shelf


@pytest.fixture
async def mark(tmp_path: Path, state: Path) -> AsyncIterator[SimulatedCluster]:
    async with shelf(tmp_path / "sim", state) as sim:
        yield sim


def environment(sim: SimulatedCluster, state: Path) -> dict[str, str]:
    return {"TIERDECK_CLUSTER": str(sim.inventory_path), "TIERDECK_STATE": str(state)}


def answered(sim: SimulatedCluster, name: str) -> int:
    return sim.endpoints[f"mark/{name}"].engine.requests["POST /v1/chat/completions"]


async def test_up_stops_whoever_worked_longest_ago_and_nothing_that_always_runs(
    mark: SimulatedCluster, state: Path
) -> None:
    Used(state).note("mark/one", 50.0)
    Used(state).note("mark/two", 10.0)
    env = environment(mark, state)
    shown = await tierdeck("up", "new", "--dry-run", "--json", env=env)
    plan = json.loads(shown.out)
    assert [step["label"] for step in plan["steps"]] == ["stop two, if it is idle", "start new"], shown
    assert running(mark) == list(RUNNING)
    ran = await tierdeck("up", "new", "--yes", env=env)
    assert ran.code == 0, ran
    assert "Start mark/new, in the place of two" in ran.err
    assert running(mark) == ["always", "one", "new"]
    again = await tierdeck("up", "new", "--yes", env=env)
    assert (again.code, again.out) == (0, ""), "what runs is left alone"
    assert "it runs and is ready" in again.err


async def test_up_without_a_need_for_room_stops_nobody(mark: SimulatedCluster, state: Path) -> None:
    await mark.endpoints["mark/one"].stop()
    ran = await tierdeck("up", "mark/new", "--yes", env=environment(mark, state))
    assert ran.code == 0, ran
    assert running(mark) == ["always", "two", "new"]


async def test_up_refuses_what_would_not_fit_even_alone_beside_what_always_runs(
    mark: SimulatedCluster, state: Path
) -> None:
    ran = await tierdeck("up", "huge", "--yes", env=environment(mark, state))
    assert ran.code == 1
    assert "mark/huge takes about 19.5 GiB; 5." in ran.err
    assert "10.7 GiB more without what is on demand there. What always runs is not stopped for it." in ran.err
    assert running(mark) == list(RUNNING)


async def test_a_prompt_starts_nothing_unasked(mark: SimulatedCluster, state: Path) -> None:
    env = environment(mark, state)
    decided = await tierdeck("route", "--json", "--task", "code", "hi", env=env)
    data = json.loads(decided.out)
    assert (decided.code, data["chosen"]["endpoint"]) == (0, "mark/new")
    assert data["starts"] == {"seconds": 4.0, "stops": ["one"]}
    assert data["wakes"] == "off: on demand, has to be started first"
    sent = await tierdeck("route", "--send", "--task", "code", "hi", env=env)
    assert (sent.code, sent.out) == (3, "")
    assert "cold: mark/new would have to start, about 4 s; stops one" in sent.err
    assert "mark/new was not started, and nothing was sent." in sent.err
    assert "Say --yes, or start it yourself: tierdeck up mark/new" in sent.err
    assert running(mark) == list(RUNNING)
    huge = await tierdeck("route", "--send", "--yes", "--json", "--task", "reason", "hi", env=env)
    assert (huge.code, running(mark)) == (3, list(RUNNING))
    assert json.loads(huge.out)["error"]["message"].startswith("mark/huge takes about 19.5 GiB")


async def test_a_prompt_starts_its_model_once_that_is_confirmed(mark: SimulatedCluster, state: Path) -> None:
    env = environment(mark, state)
    ran: Ran = await tierdeck("route", "--send", "--yes", "--json", "--task", "code", "hi", env=env)
    data = json.loads(ran.out)
    assert (ran.code, data["tries"]) == (0, [{"endpoint": "mark/new", "error": ""}]), ran.err
    assert data["answer"]
    assert running(mark) == ["always", "two", "new"], "the one that started first made room"
    assert answered(mark, "new") == 1
    assert "start new" in ran.err
    warm = await tierdeck("route", "--send", "--json", "--task", "code", "hi", env=env)
    assert (warm.code, json.loads(warm.out)["starts"]) == (0, None)


async def test_a_person_at_the_terminal_is_asked(mark: SimulatedCluster, state: Path) -> None:
    env = environment(mark, state)
    async with Terminal("route", "--send", "--task", "code", "hi", env=env) as terminal:
        await terminal.sees("stops one", "docker stop one", "docker start new", "Start it? [y/N]")
        terminal.type("n\n")
        assert await terminal.ended() == 3
    assert running(mark) == list(RUNNING)
    async with Terminal("route", "--send", "--task", "code", "hi", env=env) as terminal:
        await terminal.sees("Start it? [y/N]")
        terminal.type("y\n")
        await terminal.sees("to first token")
        assert await terminal.ended() == 0
    assert running(mark) == ["always", "two", "new"]


async def test_a_watch_stops_what_has_no_work(tmp_path: Path, state: Path) -> None:
    async with shelf(tmp_path / "sim", state, idle="1s") as sim:
        sim.extra = {"defaults": {"interval": "200ms"}}
        async with started("watch", "--json", env=environment(sim, state)):
            await until(lambda: running(sim) == ["always", "two"], "one is stopped")
