"""The start queue on real Docker, over OpenSSH and on the node itself: killed, cut off, restarted, filled up."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from backends.cluster.files import load
from backends.errors import ProcedureError
from backends.procedures.commands import Procedures
from backends.procedures.events import StepEvent
from backends.procedures.journal import journal_path, read_events
from backends.procedures.plan import Plan
from backends.procedures.startup import plan_queue
from backends.reach.local import addresses, hostname, which_node
from backends.world import survey
from tests.lab.cache import require
from tests.lab.five import NAMES, Five, start_five
from tests.procedures.test_process import ROOT, until

THREE = NAMES[:3]
LIMIT = 120.0


@pytest.fixture(scope="module")
def five_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Five]:
    require("docker", "sshd", "llamacpp")
    with start_five(tmp_path_factory.mktemp("five")) as made:
        yield made


@pytest.fixture
def five(five_once: Five, monkeypatch: pytest.MonkeyPatch) -> Iterator[Five]:
    """The host with nothing running, its home also that of who stands on it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(five_once.home))
    five_once.stop()
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield five_once


class Console:
    """Procedures of one machine against the host."""

    def __init__(self, five: Five, way: str, state: Path) -> None:
        self.five, self.state = five, state
        self.path = five.config(way)
        self.procedures = Procedures(state, self.path)

    async def plan(self, *only: str, restart: bool = False) -> Plan:
        loaded = load(self.path)
        here = which_node(loaded.inventory, hostname(), addresses())
        assert (here == "mark") is (self.path == self.five.here)
        snapshot = await survey(loaded, here, self.state)
        return plan_queue(loaded.inventory, snapshot, "mark", only=only or None, restart=restart)

    async def start(self, *only: str) -> str:
        return await self.procedures.start(await self.plan(*only), attended=False)

    async def followed(self, procedure: str) -> list[dict[str, Any]]:
        async with asyncio.timeout(LIMIT):
            return [event.to_json() async for event in self.procedures.attach(procedure)]

    def events(self, procedure: str) -> list[StepEvent]:
        return read_events(journal_path(self.state, procedure))

    def kill(self, procedure: str) -> None:
        os.kill(int(self.procedures.state(procedure).owner.rpartition(":")[2]), signal.SIGKILL)


def runs(five: Five, count: int) -> bool:
    return len(five.running()) == count


def edge(event: StepEvent) -> tuple[object, ...]:
    """What tells one edge of a procedure from another: event, step, and the stage of the gate."""
    detail = event.detail if isinstance(event.detail, dict) else {}
    return (event.event, event.step, detail.get("gate"))


async def command(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words)
    assert await process.wait() == 0


def texts(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [str(e["detail"]["text"]) for e in events if e["event"] == kind and "text" in (e["detail"] or {})]


@pytest.mark.parametrize("way", ["here", "ssh"])
async def test_killed_at_every_edge_nothing_starts_twice_and_never_two_initialise(
    five: Five, way: str, tmp_path: Path
) -> None:
    console = Console(five, way, tmp_path / "state")
    began = time.time()
    procedure = await console.start(*THREE)
    killed: set[tuple[object, ...]] = set()
    async with asyncio.timeout(240):
        while True:
            news = [e for e in map(edge, console.events(procedure)) if e not in killed]
            if console.procedures.state(procedure).state == "done":
                break
            if not news or news[0][0] == "finished":
                await asyncio.sleep(0.002)
                continue
            console.kill(procedure)
            killed.add(news[0])
            await until(lambda: console.procedures.state(procedure).state in ("lost", "done"), "the runner to die")
            if console.procedures.state(procedure).state == "lost":
                await console.procedures.resume(procedure, attended=False)
    ended = time.time()
    stages = {(step, stage) for event, step, stage in killed if event == "output"}
    assert {e[0] for e in killed} >= {"created", "resumed", "step_started", "output", "step_done"}, killed
    assert stages >= {(0, "ready"), (1, "ready"), (2, "ready"), (0, "gap"), (1, "gap")}, killed
    assert len(killed) >= 14
    assert all(map(five.serves, THREE))
    log = five.events(began, ended)
    assert [name for _, action, name in log if action == "start"] == list(THREE)
    assert not [e for e in log if e[1] in ("die", "kill", "stop", "restart")]
    started = {name: at for at, action, name in log if action == "start"}
    for before, after in pairwise(THREE):
        assert five.initialised(before, began) < started[after]
    later = await console.followed(await console.start(NAMES[3]))  # a lease left by the last kill hinders nobody
    assert later[-1]["outcome"] == "done", later[-1]
    assert not (five.home / ".tierdeck" / "lock.json").exists()


async def test_one_on_the_node_and_one_elsewhere_see_each_other(five: Five, tmp_path: Path) -> None:
    here, away = Console(five, "here", tmp_path / "here"), Console(five, "ssh", tmp_path / "away")
    for first, second in ((here, away), (away, here)):
        five.stop()
        plan = await second.plan(*THREE)
        procedure = await first.start(NAMES[0])
        with pytest.raises(ProcedureError, match=rf"has held mark for \d+ s with procedure {procedure}"):
            await second.procedures.start(plan)
        assert (await first.followed(procedure))[-1]["outcome"] == "done"
        again = await second.procedures.start(plan, attended=False)
        assert (await second.followed(again))[-1]["outcome"] == "done"


async def test_ssh_that_drops_in_mid_start_starts_nothing_twice(five: Five, tmp_path: Path) -> None:
    console = Console(five, "ssh", tmp_path / "state")
    began = time.time()
    procedure = await console.start(*THREE)
    for count in (1, 2):
        await until(partial(runs, five, count), "a start")
        five.ssh.close()  # with all its sessions
        await asyncio.sleep(1.0)
        five.ssh.start()
        five.ssh.ready()
    events = await console.followed(procedure)
    assert events[-1]["outcome"] == "done", events[-1]
    assert any("cannot look" in text or "not sure" in text for text in texts(events, "output"))
    log = five.events(began, time.time())
    assert [name for _, action, name in log if action == "start"] == list(THREE)
    assert not [e for e in log if e[1] in ("die", "kill", "stop")]


@pytest.mark.parametrize("policy", ["no", "always"])
async def test_a_docker_that_restarts_in_mid_queue(five: Five, tmp_path: Path, policy: str) -> None:
    console = Console(five, "ssh", tmp_path / "state")
    five.engine.docker("update", "--restart", policy, *NAMES)
    procedure = await console.start()
    await until(lambda: len(five.running()) == 2, "the second to start")
    await asyncio.to_thread(five.engine.restart)
    if policy == "always":
        assert len(five.running()) >= 2
    events = await console.followed(procedure)
    assert events[-1]["outcome"] == "done", [(e["at"], e["event"], e["detail"]) for e in events[1:]]
    assert [name for name in NAMES if not five.serves(name)] == [], "\n".join(texts(events, "output"))
    if policy == "always":
        assert any("restarted by themselves with Docker" in text for text in texts(events, "output"))


async def test_a_full_disk_under_the_journal_halts_it_and_nothing_else_is_started(five: Five, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    await command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(state))
    try:
        console = Console(five, "here", state)
        procedure = await console.start(*THREE)
        await until(lambda: any(e.event == "output" for e in console.events(procedure)), "the first step")
        with (state / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(512))
            except OSError:
                pass
        events = await console.followed(procedure)
        assert (events[-1]["event"], events[-1]["outcome"]) == ("finished", "halted")
        assert "No space left on device. Nothing more was begun. Make room" in events[-1]["detail"]["text"]
        begun = [THREE[e["step"]] for e in events if e["event"] == "step_started"]
        assert sorted(five.running()) == sorted(begun)
        assert len(begun) < len(THREE)
        (state / "ballast").unlink()
        await console.procedures.resume(procedure, attended=False)
        assert (await console.followed(procedure))[-1]["outcome"] == "done"
        assert all(map(five.serves, THREE))
    finally:
        await command("umount", "--lazy", str(state))


async def test_what_a_start_took_is_known_at_the_next(five: Five, tmp_path: Path) -> None:
    console = Console(five, "here", tmp_path / "state")
    procedure = await console.start(NAMES[0])
    events = await console.followed(procedure)
    assert any("srv" in line for e in events if e["event"] == "output" for line in e["detail"].get("log", []))
    five.stop()
    events = await console.followed(await console.start(NAMES[0]))
    waits = [e["detail"] for e in events if e["event"] == "output" and e["detail"].get("expected_s")]
    assert waits, events
    assert waits[0]["estimate"] is True
    assert 0 <= waits[0]["progress"] < 1
    assert 1.0 < waits[0]["expected_s"] < 10
    assert f"/~{waits[0]['expected_s']:.0f} s" in waits[0]["text"]
