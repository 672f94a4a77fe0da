from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.inventory import Inventory
from backends.errors import CommandError
from backends.reach.local import LocalShell, addresses, hostname, is_loopback, which_node
from tests.reach.conftest import until

SHELL = LocalShell()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_run_gives_status_both_outputs_and_stdin() -> None:
    done = await SHELL.run(["sh", "-c", "cat; echo error >&2; exit 3"], stdin=b"in\xff", timeout=5)
    assert (done.status, done.stdout, done.stderr) == (3, "in\ufffd", "error\n")
    assert (await SHELL.run(["echo", "$HOME; `x`"], timeout=5)).stdout == "$HOME; `x`\n"


async def test_input_that_nobody_reads_does_no_harm() -> None:
    assert (await SHELL.run(["true"], stdin=b"x" * 1_000_000, timeout=5)).status == 0


async def test_missing_and_unusable_programs(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no-such-program is not installed here") as caught:
        await SHELL.run(["no-such-program"], timeout=5)
    assert caught.value.status == 127
    (tmp_path / "data").write_text("no program")
    with pytest.raises(CommandError, match="cannot be run here") as caught:
        await SHELL.run([str(tmp_path / "data")], timeout=5)
    assert caught.value.status == 126
    with pytest.raises(CommandError, match="cannot be run here"):
        await SHELL.run(["echo", "a\0b"], timeout=5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
async def test_time_limit_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 100 & echo $! > {pids}; echo $$ >> {pids}; wait"
    with pytest.raises(TimeoutError, match="did not end within 1 s here"):
        await SHELL.run(["sh", "-c", script], timeout=1)
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 2
    await until(lambda: not any(alive(pid) for pid in started))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
async def test_leaving_lines_kills_the_command() -> None:
    async with SHELL.lines(["sh", "-c", "echo $$; echo two; sleep 100"]) as lines:
        pid = int(await anext(lines))
        assert await anext(lines) == "two"
        assert alive(pid)
    await until(lambda: not alive(pid))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
async def test_cancelling_kills_the_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.create_task(SHELL.run(["sh", "-c", f"echo $$ > {pids}; sleep 100"], timeout=60))
    await until(lambda: pids.exists() and pids.read_text() != "")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not alive(int(pids.read_text())))


async def test_cancelling_at_any_moment_is_quick() -> None:
    """asyncio hangs for ever where a process is cancelled while its pipes are being opened."""
    for step in range(40):
        task = asyncio.create_task(SHELL.run(["sh", "-c", "echo $$; sleep 100"], timeout=60))
        await asyncio.sleep(0.00025 * step)
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait({task})
        assert task.cancelled()


async def test_what_a_finished_command_left_running_is_left_alone() -> None:
    done = await SHELL.run(["sh", "-c", "sleep 5 >/dev/null 2>&1 & echo $!"], timeout=4)
    left = int(done.stdout)
    os.kill(left, 9)  # fails if it were gone


async def test_lines_of_a_command_that_fails_end_with_its_words() -> None:
    async with SHELL.lines(["sh", "-c", "echo one; echo broken >&2; exit 9"]) as lines:
        assert await anext(lines) == "one"
        with pytest.raises(CommandError, match="failed here: broken") as caught:
            await anext(lines)
    assert caught.value.status == 9


async def test_pipe_carries_both_ways_and_tells_of_failure() -> None:
    async with SHELL.pipe(["cat"]) as (reader, writer):
        writer.write(b"through")
        await writer.drain()
        assert await reader.read(100) == b"through"
    with pytest.raises(CommandError, match="no such context"):
        async with SHELL.pipe(["sh", "-c", "echo no such context >&2; exit 1"]) as (reader, _):
            assert await reader.read(100) == b""


async def test_environment_is_what_was_given() -> None:
    done = await LocalShell({"ONLY": "this", "PATH": os.environ["PATH"]}).run(["env"], timeout=5)
    assert "ONLY=this" in done.stdout.splitlines()
    assert not any(line.startswith("HOME=") for line in done.stdout.splitlines())


def test_this_machine() -> None:
    assert hostname()
    assert "127.0.0.1" in addresses()
    assert not any("%" in address for address in addresses())


def inventory(nodes: Iterable[dict[str, Any]]) -> Inventory:
    return Inventory.model_validate({"version": 1, "name": "test", "nodes": list(nodes)})


DESK = {"name": "desk", "address": "10.0.10.10"}
MARK = {"name": "mark", "address": "10.0.10.20", "ssh": {"user": "ops"}}
LOOP = {"name": "self", "address": "127.0.0.1"}
SSH: dict[str, Any] = {"ssh": {}}


@pytest.mark.parametrize(
    ("nodes", "name", "ours", "here"),
    [
        ([DESK, MARK], "desk", ["127.0.0.1", "10.0.10.10"], "desk"),
        ([DESK, MARK], "other", ["127.0.0.1", "10.0.10.20"], "mark"),
        ([DESK, MARK], "MARK.lan", ["127.0.0.1"], "mark"),
        ([DESK, MARK], "laptop", ["127.0.0.1", "192.168.1.4"], None),
        ([DESK, MARK], "mark", ["10.0.10.10"], "desk"),
        ([DESK, LOOP], "laptop", ["127.0.0.1"], "self"),
        ([DESK, LOOP], "laptop", ["127.0.0.1", "10.0.10.10"], "desk"),
        ([LOOP | SSH], "laptop", ["127.0.0.1"], None),
        ([{"name": "self", "address": "localhost"}], "laptop", [], "self"),
        ([{"name": "self", "address": "localhost"} | SSH], "localhost", ["127.0.0.1"], None),
        ([{"name": "self", "address": "::1"}], "laptop", ["::1"], "self"),
        ([{"name": "self", "address": "127.0.1.1"}], "laptop", ["127.0.0.1"], "self"),
        ([{"name": "x", "address": "fd00:0::1"}], "laptop", ["fd00::1"], "x"),
        ([{"name": "x", "address": "fe80::1%eth0"}], "laptop", ["fe80::1"], "x"),
        ([{"name": "x", "address": "nas.lan"}], "nas", [], "x"),
        ([{"name": "x", "address": "nas"}], "nas.lan", [], "x"),
        ([{"name": "x", "address": "nas.lan"}], "nas.example.org", [], None),
        ([{"name": "localhost", "address": "10.0.0.1"} | SSH], "localhost", ["127.0.0.1"], None),
        ([], "laptop", ["127.0.0.1"], None),
    ],
)
def test_which_node(nodes: list[dict[str, Any]], name: str, ours: list[str], here: str | None) -> None:
    assert which_node(inventory(nodes), name, ours) == here


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("nas", False),
    ],
)
def test_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
