"""On-demand models: what makes room for what, what is never stopped, and what has been idle for long enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.files import load, parse
from backends.cluster.fold import empty
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, Instant, Progress, Workload
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause, Verdict
from backends.demand import LOOK_EVERY, Idle, Stopping
from backends.errors import ProcedureError
from backends.procedures.demand import found, plan_down, plan_up
from backends.procedures.used import Used
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.httpfaults import HttpFault
from backends.world import World
from tests.cli.driving import until
from tests.cli.shelf import running, shelf
from tests.deploy.conftest import Site

NEED = {"always": 8000.0, "one": 6000.0, "two": 5000.0, "new": 9000.0}
HEAD = (
    'version = 1\nname = "x"\n[[nodes]]\nname = "mark"\naddress = "10.0.0.2"\ngpus = "nvidia"\n[[tiers]]\nname = "T"\n'
)


def inventory(idle: str = "10m") -> Inventory:
    text = HEAD
    for name in NEED:
        text += f'[[endpoints]]\nname = "mark/{name}"\ntier = "T"\nnode = "mark"\nengine = "llama.cpp"\n'
        text += f'url = "http://localhost:1"\ncontainer = "{name}"\nmodel = "model-{name}"\n'
        text += "" if name == "always" else f'on_demand = true\nidle = "{idle}"\n'
    return parse(text, Path("cluster.toml")).inventory


def snapshot(told: Inventory, free: float | None, *, busy: str = "", running: tuple[str, ...] = ()) -> ClusterSnapshot:
    running = running or ("always", "one", "two")
    workloads = tuple(
        Workload(n, "docker", "running" if n in running else "exited", started_at=float(i), gpu=True)
        for i, n in enumerate(NEED)
    )
    at = Instant(100.0, 100.0)
    seen = empty(told, None)
    used = None if free is None else 24000.0 - free
    gpus = (Gpu(0, "RTX 3090", memory_total_mib=24000.0, memory_used_mib=used),)
    node = replace(seen.nodes["mark"], workloads=workloads, workloads_taken=at, gpus=gpus)
    endpoints = {
        e.name: replace(
            seen.endpoints[e.name],
            verdict=Verdict.UP if e.container in running else Verdict.UNKNOWN,
            cause=Cause.OK if e.container in running else Cause.OFF,
            progress=Progress(tokens=5.0, running=int(e.container == busy)),
        )
        for e in told.endpoints
    }
    return replace(seen, nodes={"mark": node}, endpoints=endpoints, taken=at)


def planned(free: float | None, used: Mapping[str, float] | None = None, **how: Any) -> list[str]:
    told = inventory()
    plan = plan_up(
        told,
        snapshot(told, free, **how),
        found(told, "model-new"),
        need=lambda _, name: NEED.get(name),
        used=used or {},
    )
    return [step.label for step in plan.steps]


@pytest.mark.parametrize(
    ("free", "used", "steps"),
    [
        (10_000.0, {}, ["start new"]),
        (4_000.0, {}, ["stop one, if it is idle", "start new"]),
        (5_000.0, {"mark/one": 50.0, "mark/two": 10.0}, ["stop two, if it is idle", "start new"]),
        (
            0.0,
            {"mark/one": 50.0, "mark/two": 10.0},
            ["stop two, if it is idle", "stop one, if it is idle", "start new"],
        ),
        (None, {}, ["start new"]),
    ],
)
def test_the_least_recently_used_makes_room(free: float | None, used: dict[str, float], steps: list[str]) -> None:
    assert planned(free, used) == steps


def test_what_always_runs_and_what_works_is_never_stopped() -> None:
    with pytest.raises(ProcedureError) as caught:
        planned(-2_000.0)
    assert str(caught.value) == (
        "mark/new takes about 8.8 GiB; -2.0 GiB are free on mark, and 10.7 GiB more without what is on demand there. "
        "What always runs is not stopped for it."
    )
    assert planned(5_000.0, busy="one") == ["stop two, if it is idle", "start new"]
    with pytest.raises(ProcedureError, match="What always runs is not stopped"):
        planned(3_000.0, busy="one")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("mark/neww", 'There is no endpoint, container or model "mark/neww". Did you mean "mark/new"?'),
        ("always", "mark/always is not on demand. Start it: tierdeck queue run mark"),
    ],
)
def test_what_is_meant(word: str, words: str) -> None:
    told = inventory()
    assert {found(told, each).name for each in ("new", "mark/new", "model-new")} == {"mark/new"}
    with pytest.raises(ProcedureError) as caught:
        found(told, word)
    assert str(caught.value) == words


def test_idle_is_who_tells_counters_that_stand_still() -> None:
    told = inventory("60s")
    seen = snapshot(told, 0.0, running=("always", "one"))
    idle = Idle(told)

    def at(mono: float, **progress: Any) -> tuple[list[str], list[str]]:
        state = replace(seen.endpoints["mark/one"], progress=Progress(**progress) if progress else None)
        return idle.due(replace(seen, endpoints={**seen.endpoints, "mark/one": state}), Instant(mono, mono))

    assert at(0.0, tokens=5.0) == ([], [])
    assert at(59.0, tokens=5.0) == ([], [])
    assert at(60.0, tokens=5.0) == (["mark/one"], [])
    assert at(61.0, tokens=6.0) == ([], ["mark/one"])
    assert at(120.0, tokens=6.0, running=1) == ([], ["mark/one"])
    assert at(179.0, tokens=6.0, running=0) == ([], [])
    assert at(180.0, tokens=6.0, running=0) == (["mark/one"], [])
    assert at(181.0) == ([], []), "who tells nothing is not called idle"
    assert at(300.0, tokens=6.0) == ([], [])
    assert "mark/always" not in str(at(9000.0, tokens=6.0))


def test_who_tells_no_counter_is_named_once() -> None:
    told = inventory("60s")
    seen = snapshot(told, 0.0, running=("always", "one"))
    mute = replace(seen.endpoints["mark/one"], progress=None)
    idle, quiet = Idle(told), replace(seen, endpoints={**seen.endpoints, "mark/one": mute})
    named = [idle.silent(quiet, Instant(at, at)) for at in (0.0, 59.0, 60.0, 3600.0)]
    assert named == [[], [], ["mark/one"], []]
    assert idle.silent(seen, Instant(3601.0, 3601.0)) == []
    assert idle.silent(quiet, Instant(3602.0, 3602.0)) == []


def test_what_was_used_when_is_kept(tmp_path: Path) -> None:
    Used(tmp_path).note("mark/one", 5.0)
    Used(tmp_path).note("mark/two", 6.0)
    assert Used(tmp_path).read() == {"mark/one": 5.0, "mark/two": 6.0}
    (tmp_path / "used.json").write_text("{")
    assert Used(tmp_path).read() == {}


class Steps:
    """A clock that stands still until a test lets time pass."""

    def __init__(self) -> None:
        self._passed = 1000.0
        self._turns: asyncio.Queue[None] = asyncio.Queue()
        self._begun = False

    def now(self) -> Instant:
        return Instant(1_750_000_000.0 + self._passed, self._passed)

    async def sleep(self, seconds: float) -> None:
        if self._begun:
            self._turns.task_done()
        self._begun = True
        await self._turns.get()
        self._passed += seconds

    async def passes(self, seconds: float) -> None:
        """Let time pass, a look at a time; back when what the last led to is begun."""
        for _ in range(round(seconds / LOOK_EVERY)):
            self._turns.put_nowait(None)
        async with asyncio.timeout(60.0):
            await self._turns.join()


class Watched:
    """Two that are idle for ten minutes by a clock that is told; the procedures that stop them are real."""

    def __init__(self, sim: SimulatedCluster, world: World, state: Path) -> None:
        self.sim, self.world, self.clock = sim, world, Steps()
        self.said: list[str] = []
        self.seen: list[ClusterSnapshot] = []
        self.used = Used(state)

    async def look(self) -> None:
        self.seen.append(await self.world.look())

    async def stopped(self, name: str) -> None:
        """Let five more seconds pass; the container is stopped for them, and the procedure over."""
        await self.clock.passes(LOOK_EVERY)
        await until(lambda: not self.sim.nodes["mark"].container(name).running, f"{name} is stopped")
        await until(lambda: not any(p.open for p in self.world.procedures.list()), "its procedure is over")
        await self.look()


@pytest.fixture
async def watched(tmp_path: Path, short_sockets: None) -> AsyncIterator[Watched]:
    state = tmp_path / "state"
    async with shelf(tmp_path / "sim", state) as sim, World(load(sim.inventory_path), None, state) as world:
        found = Watched(sim, world, state)
        await found.look()
        seen, clock = found.seen, found.clock
        stopping = Stopping(world.inventory, world, clock, lambda: seen[-1], found.said.append, found.used)
        watching = asyncio.create_task(stopping.run())
        await clock.passes(600.0)
        assert found.said == [], "the first of these looks only began it"
        yield found
        watching.cancel()


async def test_a_watch_stops_what_is_idle_and_nothing_that_serves(watched: Watched) -> None:
    await watched.sim.endpoints["mark/two"].server.inflict(HttpFault("stop_in_mid_stream"))
    async with aclosing(watched.world.chat("mark/two", "hello")) as answer:
        await anext(answer)
        await watched.look()
        await watched.stopped("one")
        await watched.clock.passes(3600.0)
    assert running(watched.sim) == ["always", "two"]
    assert watched.said == ["Stop mark/one: idle for 600 s"]
    assert list(watched.used.read()) == ["mark/two"]


async def test_two_that_are_idle_at_once_are_stopped_one_after_the_other(watched: Watched) -> None:
    await watched.stopped("one")
    assert running(watched.sim) == ["always", "two"]
    await watched.stopped("two")
    assert running(watched.sim) == ["always"]
    assert watched.said == ["Stop mark/one: idle for 600 s", "Stop mark/two: idle for 600 s"]


async def test_one_is_stopped_on_a_node_unless_it_works(site: Site) -> None:
    loaded = site.loaded
    endpoint = loaded.inventory.endpoint_named["remote/a"]
    from backends.world import survey

    plan = plan_down(loaded.inventory, await survey(loaded, None, site.folder), endpoint, "idle for 60 s")
    assert plan.title == "Stop remote/a: idle for 60 s"
    assert plan.steps[0].command == "docker stop mark-i"
    events = await site.carry_out(plan)
    assert events[-1].outcome == "done", [e.text for e in events]
    assert not site.docker.containers["mark-i"].running
