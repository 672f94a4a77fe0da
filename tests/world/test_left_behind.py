"""Whoever leaves the world leaves nothing in it: no task, no socket, no thread, no process, no folder of ours."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from backends.cluster.files import load
from backends.cluster.words import State
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from backends.simulator.httpfaults import HttpFault
from tests.world.watching import Watch, until, watching

LEAVING = 3.0
"""Seconds that leaving may take, whatever hangs."""

SMI = """#!/bin/sh
case "$*" in *--query-gpu*) ;; *) exit 0 ;; esac
while :; do
    echo "0, GPU-1, NVIDIA of this machine, 24576, 100, 1, 40, 20.00"
    case "$*" in *" -l "*) sleep 0.1 ;; *) exit 0 ;; esac
done
"""


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    sim = demo(tmp_path / "sim", speed=100.0, tokens_per_second=50.0)
    sim.extra["defaults"] = {"interval": "100ms", "timeout": "2s"}
    async with sim:
        for name, value in sim.secrets.items():
            monkeypatch.setenv(name, value)
        yield sim


@dataclass(frozen=True)
class Held:
    """What this process holds; threads of the event loop's own pool are the loop's."""

    tasks: int
    files: int
    threads: frozenset[str]
    children: int
    folders: frozenset[str]

    @classmethod
    def now(cls, folder: Path) -> Held:
        gc.collect()
        return cls(
            len(asyncio.all_tasks()),
            len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,
            frozenset(t.name for t in threading.enumerate() if not t.name.startswith("asyncio_")),
            len(psutil.Process().children(recursive=True)),
            frozenset(os.listdir(folder)),
        )

    def no_more_than(self, other: Held) -> bool:
        return (
            self.tasks <= other.tasks
            and self.files <= other.files
            and self.threads <= other.threads
            and self.children <= other.children
            and self.folders <= other.folders
        )


async def nothing_more(before: Held, folder: Path) -> None:
    """Wait until only that is held which was held before; the simulator's ends of our sockets close a bit later."""
    try:
        await until(lambda: Held.now(folder).no_more_than(before), "nothing is left")
    except AssertionError:
        tasks = [task.get_name() for task in asyncio.all_tasks()]
        raise AssertionError(f"before {before}\nnow    {Held.now(folder)}\n{tasks}") from None


async def healthy(watch: Watch) -> None:
    await watch.until(lambda: watch.snapshot.prognosis.state is State.HEALTHY, "all is healthy")
    await watch.until(lambda: watch.node("mark").workloads and watch.node("mark").gpus, "mark was looked at")


async def visit(sim: SimulatedCluster, state: Path, folder: Path) -> None:
    """Open the world, use all of it, and leave an answer and a log in the middle."""
    async with watching(load(sim.inventory_path), state) as watch:
        await healthy(watch)
        assert os.listdir(folder), "Docker is reached through a socket of ours"
        async with aclosing(watch.world.chat("remote/mark-i", "hello")) as events:
            for _ in range(3):
                await anext(events)
        async with watch.world.logs("mark", "mark-i") as lines:
            await anext(lines)
        await watch.world.look()


async def test_nothing_is_left_behind(sim: SimulatedCluster, folder: Path, tmp_path: Path) -> None:
    await visit(sim, tmp_path / "state", folder)  # what is loaded and opened once and for all
    engine = sim.endpoints["remote/mark-i"].engine
    await until(lambda: engine.running == 0, "the answer was given up")
    assert not os.listdir(folder)
    before = Held.now(folder)
    for _ in range(2):
        await visit(sim, tmp_path / "state", folder)
    await nothing_more(before, folder)
    servers = [node.ssh for node in sim.nodes.values() if node.ssh is not None]
    await until(lambda: not any(server.connections for server in servers), "no SSH connection stands")
    await until(lambda: engine.running == 0, "the answers were given up")


async def test_nor_when_everything_hangs(sim: SimulatedCluster, folder: Path, tmp_path: Path) -> None:
    mark, desk = sim.nodes["mark"], sim.nodes["desk"]
    assert mark.docker is not None
    assert desk.ssh is not None
    await visit(sim, tmp_path / "state", folder)
    before = Held.now(folder)
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        await mark.docker.server.inflict(HttpFault("half_open"))
        await desk.ssh.hang()
        await desk.ssh.drop()
        for name in ("remote/mark-i", "remote/mark-ii"):
            await sim.endpoints[name].server.inflict(HttpFault("half_open"))
        await sim.endpoints["remote/mark-iii"].server.inflict(HttpFault("black_hole"))
        await sim.endpoints["nas/coder"].server.inflict(HttpFault("stop_in_mid_stream"))
        events = watch.world.chat("nas/coder", "hello")
        await anext(events)
        watch.nudge()
        count = len(watch.of("gateway/litellm"))
        await watch.until(lambda: len(watch.of("gateway/litellm")) >= count + 3, "the others go on")
        began = time.monotonic()
        await events.aclose()
    assert time.monotonic() - began < LEAVING
    await sim.endpoints["nas/coder"].server.heal()
    await mark.docker.server.heal()
    await desk.ssh.heal()
    for name in ("remote/mark-i", "remote/mark-ii", "remote/mark-iii"):
        await sim.endpoints[name].server.heal()
    await nothing_more(before, folder)


async def test_nor_processes_of_this_machine(
    sim: SimulatedCluster, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the node itself nvidia-smi runs as a child of ours for as long as we look."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(SMI)
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    await visit(sim, tmp_path / "state", folder)
    before = Held.now(folder)
    async with watching(load(sim.inventory_path), tmp_path / "state", here="mark") as watch:
        await healthy(watch)
        assert watch.node("mark").gpus[0].name == "NVIDIA of this machine"
        await until(lambda: Held.now(folder).children > before.children, "nvidia-smi runs")
    await nothing_more(before, folder)
