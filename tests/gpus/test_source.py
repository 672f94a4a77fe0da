"""The GPUs of a node on the simulator's SSH servers, and with shells that answer oddly."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, GpuProcess
from backends.cluster.tables import Node
from backends.errors import CommandError, SshError
from backends.gpus import source
from backends.reach.local import LocalShell
from backends.reach.reaches import Reaches
from backends.reach.runtime import Completed
from backends.secrets import Secrets
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from tests.gpus.test_amd_apple import CARD, IOREG, ITEM
from tests.gpus.test_nvidia import CONTAINER, GOOD


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    async with demo(tmp_path / "sim", speed=100.0) as sim:
        yield sim


@pytest.fixture
async def reaches(sim: SimulatedCluster) -> AsyncIterator[Reaches]:
    inventory = Inventory.model_validate(tomllib.loads(sim.inventory))
    async with Reaches(inventory, None, Secrets()) as reaches:
        yield reaches


def node(gpus: str = "nvidia", **more: Any) -> Node:
    return Node.model_validate({"name": "mark", "address": "10.0.0.1", "gpus": gpus, **more})


class Answers:
    """A shell whose commands answer by their first word; a list answers one after the other, the last for ever."""

    def __init__(self, **answers: Completed | Exception | list[str]) -> None:
        self.answers = {key.replace("_", "-"): answer for key, answer in answers.items()}
        self.ran: list[str] = []

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.ran.append(" ".join(argv[:2]))
        apps = "apps" if "--query-compute-apps" in argv[1] else argv[0]
        answer = self.answers.get(apps, Completed(127, "", f"sh: {argv[0]}: not found"))
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Completed)
        return answer

    @asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[str]]:
        self.ran.append("lines " + " ".join(argv[-2:]))
        answer = self.answers["lines"]
        assert isinstance(answer, list)

        async def said() -> AsyncIterator[str]:
            for line in answer:
                yield line

        yield said()


def good(text: str) -> Completed:
    return Completed(0, text, "")


async def test_once_over_ssh(sim: SimulatedCluster, reaches: Reaches) -> None:
    (gpu,) = await source.read_once(reaches["mark"].node, reaches["mark"].shell)
    simulated = sim.nodes["mark"].host.gpus[0]
    assert (gpu.name, gpu.uuid) == ("NVIDIA GeForce RTX 3090", simulated.uuid)
    assert gpu.memory_total_mib == 24576
    assert gpu.memory_used_mib == pytest.approx(simulated.used_mib, abs=1)
    assert gpu.processes is not None
    assert len(gpu.processes) == 5
    assert await source.read_once(reaches["nas"].node, reaches["nas"].shell) == ()


async def test_stream_is_one_process(sim: SimulatedCluster, reaches: Reaches) -> None:
    mark = reaches["mark"]
    async with aclosing(source.stream(mark.node, mark.shell, 1.0)) as rounds:
        async with asyncio.timeout(10):
            seen = [await anext(rounds) for _ in range(20)]
    assert all(len(gpus) == 1 and len(gpus[0].processes or ()) == 5 for gpus in seen)
    asked = [line for line in sim.nodes["mark"].commands.ran if "--query-gpu" in line]
    assert len(asked) == 2
    assert asked[1].endswith("-l 1")


async def test_stream_ends_with_its_cause(sim: SimulatedCluster, reaches: Reaches) -> None:
    mark = reaches["mark"]
    async with aclosing(source.stream(mark.node, mark.shell, 1.0)) as rounds:
        await anext(rounds)
        await anext(rounds)
        sim.nodes["mark"].host.gpus[0].lost = True
        with pytest.raises(CommandError, match="fell off the bus") as caught:
            await _to_the_end(rounds)
    assert "Reboot the host" in caught.value.advice
    assert caught.value.message.count("nvidia-smi") == 1
    with pytest.raises(CommandError, match="fell off the bus"):
        await source.read_once(mark.node, mark.shell)


async def _to_the_end(rounds: AsyncIterator[tuple[Gpu, ...]], seen: list[Gpu] | None = None) -> None:
    async with asyncio.timeout(10):
        async for gpus in rounds:
            if seen is not None:
                seen.extend(gpus)


async def test_driver_that_hangs(sim: SimulatedCluster, reaches: Reaches) -> None:
    mark = reaches["mark"]
    sim.nodes["mark"].host.smi_hangs = True
    with pytest.raises(CommandError, match=r"driver of mark did not answer within 0\.5 s") as caught:
        await source.read_once(mark.node, mark.shell, 0.5)
    assert "reboot" in caught.value.advice


async def test_stream_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LIMIT", 0.2)
    monkeypatch.setattr(source, "_SILENT", 0.1)
    script = f'#!/bin/sh\necho "{GOOD}"\ncase "$*" in *-l*) exec sleep 100;; esac\n'
    async with _program("nvidia-smi", script) as shell, aclosing(source.stream(node(), shell, 1.0)) as rounds:
        assert len([await anext(rounds), await anext(rounds)]) == 2
        with pytest.raises(CommandError, match="did not answer within"):
            await anext(rounds)


@asynccontextmanager
async def _program(name: str, script: str) -> AsyncIterator[LocalShell]:
    """A shell of this machine whose PATH begins with a program of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(script)
        path.chmod(0o755)
        yield LocalShell({"PATH": f"{folder}:{os.environ['PATH']}"})


async def test_processes_know_their_container_and_are_asked_seldom() -> None:
    uuid = GOOD.split(", ")[1]
    shell = Answers(
        nvidia_smi=good(GOOD),
        apps=good(f"7, 100, {uuid}"),
        grep=good(f"/proc/7/cgroup:0::/docker-{CONTAINER}.scope"),
        lines=[GOOD] * 50,
    )
    seen: list[Gpu] = []
    with pytest.raises(CommandError, match="ended by itself"):
        await _to_the_end(source.stream(node(), shell, 2.0), seen)
    assert len(seen) == 51
    assert {gpu.processes for gpu in seen} == {(GpuProcess(7, 100, CONTAINER),)}
    assert shell.ran.count("nvidia-smi --query-compute-apps=pid,used_memory,gpu_uuid") == 1
    assert "lines -l 2" in shell.ran


async def test_processes_are_asked_again_whenever_memory_moves() -> None:
    uuid = GOOD.split(", ")[1]
    moved = [GOOD.replace("20118", str(used)) for used in (20118, 20180, 20190, 20200, 12000, 12010)]
    shell = Answers(nvidia_smi=good(GOOD), apps=good(f"7, 100, {uuid}"), grep=good(""), lines=moved)
    with pytest.raises(CommandError, match="ended by itself"):
        await _to_the_end(source.stream(node(), shell, 2.0))
    asked = [line for line in shell.ran if "compute-apps" in line]
    assert len(asked) == 3, "at first, when 72 MiB more were in use, and when 8 GiB less were"


@pytest.mark.parametrize("trouble", [Completed(2, "", "no"), CommandError("gone"), TimeoutError(), good("rubbish")])
async def test_figures_stand_without_the_processes(trouble: Completed | Exception) -> None:
    (gpu,) = await source.read_once(node(), Answers(nvidia_smi=good(GOOD), apps=trouble))
    assert (gpu.memory_used_mib, gpu.processes) == (20118, None)


async def test_program_that_is_missing_here_or_there() -> None:
    with pytest.raises(CommandError, match="nvidia-smi is not installed"):
        await source.read_once(node(), Answers())
    missing = CommandError("nvidia-smi is not installed here, or not on the PATH.", status=127)
    with pytest.raises(CommandError, match="nvidia-smi is not installed"):
        await source.read_once(node(), Answers(nvidia_smi=missing))
    with pytest.raises(CommandError, match="Neither rocm-smi nor amd-smi"):
        await source.read_once(node("amd"), Answers())
    with pytest.raises(CommandError, match="ioreg cannot be run"):
        await source.read_once(node("apple"), Answers())


async def test_ssh_trouble_stays_ssh_trouble() -> None:
    refused = SshError("mark: refuses SSH.")
    for kind, tool in (("nvidia", "nvidia_smi"), ("amd", "rocm_smi"), ("apple", "ioreg")):
        with pytest.raises(SshError, match="refuses SSH"):
            await source.read_once(node(kind), Answers(**{tool: refused}))


async def test_totals_from_the_inventory_where_none_can_be_read() -> None:
    unread = GOOD.replace("24576", "[N/A]")
    (gpu,) = await source.read_once(node(vram=["24GiB"]), Answers(nvidia_smi=good(unread)))
    assert gpu.memory_total_mib == 24576
    (gpu,) = await source.read_once(node(vram=["8GiB"]), Answers(nvidia_smi=good(GOOD)))
    assert gpu.memory_total_mib == 24576
    (gpu,) = await source.read_once(node(), Answers(nvidia_smi=good(unread)))
    assert gpu.memory_total_mib is None


async def test_amd_by_either_tool_and_again_and_again() -> None:
    shell = Answers(rocm_smi=good(json.dumps({"card0": CARD})))
    async with aclosing(source.stream(node("amd"), shell, 0.01)) as rounds:
        for _ in range(3):
            (gpu,) = await anext(rounds)
            assert gpu.name == "Radeon RX 7800 XT"
    (gpu,) = await source.read_once(node("amd"), Answers(amd_smi=good(json.dumps([ITEM]))))
    assert gpu.memory_total_mib == 16368
    with pytest.raises(CommandError, match="rocm-smi failed with status 1: boom"):
        await source.read_once(node("amd"), Answers(rocm_smi=Completed(1, "", "boom")))


async def test_apple() -> None:
    shell = Answers(ioreg=good(IOREG), sysctl=Completed(1, "hw.memsize: 1\n", "unknown oid"))
    (gpu,) = await source.read_once(node("apple"), shell)
    assert (gpu.memory_used_mib, gpu.memory_total_mib) == (2048, None)


async def test_a_node_without_gpus_ends_its_stream() -> None:
    assert [gpus async for gpus in source.stream(node("none"), Answers(), 1.0)] == [()]
