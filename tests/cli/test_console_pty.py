"""The real console in a real pseudo-terminal: its first frame, its ends, and what it leaves behind."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import psutil
import pytest

from backends.procedures.commands import Procedures
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.httpfaults import HttpFault
from tests.cli.driving import TIERDECK, Terminal, ours, tierdeck, until

INVENTORY = """\
version = 1
name = "lumina"

[[nodes]]
name = "desk"
address = "127.0.0.1"
gpus = "nvidia"

[[tiers]]
name = "LOCAL"

[[tiers]]
name = "REMOTE"

[[tiers]]
name = "NAS"

[[endpoints]]
name = "local/ollama"
tier = "LOCAL"
engine = "ollama"
url = "http://127.0.0.1:9"
"""

TIERS = ("LOCAL", "REMOTE", "NAS")
ENTERS_THE_SCREEN = b"\x1b[?1049h"
LEAVES_THE_SCREEN = b"\x1b[?1049l"


@pytest.fixture
def cluster(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster.toml whose node is this machine, with GPUs whose nvidia-smi hangs."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    path = tmp_path / "cluster.toml"
    path.write_text(INVENTORY)
    monkeypatch.setenv("TIERDECK_CLUSTER", str(path))
    return path


def broken(cluster: Path) -> None:
    cluster.write_text(INVENTORY.replace("[[tiers]]", "[[tiers", 1))


def tools(state: Path) -> list[psutil.Process]:
    return [process for process in ours(state) if process.name() == "sleep"]


@pytest.mark.parametrize("how", ["hang-up", "SIGTERM", "ctrl+c"])
async def test_every_end_leaves_nothing_behind(cluster: Path, state: Path, how: str) -> None:
    async with Terminal() as terminal:
        await terminal.sees(*TIERS, "lumina")
        assert terminal.attributes() != terminal.attributes_before, "the console reads single keys"
        await until(lambda: tools(state), "nvidia-smi to run")
        match how:
            case "hang-up":
                terminal.hang_up()
            case "SIGTERM":
                terminal.process.terminate()
            case "ctrl+c":
                terminal.type("\x03")
        code = await terminal.ended()
        assert await until(lambda: not ours(state), "nothing to run any more")
        if how != "hang-up":
            assert (code, terminal.attributes()) == (0, terminal.attributes_before), terminal.text[-3000:]
            assert terminal.raw.count(LEAVES_THE_SCREEN) == 1
            assert "Traceback" not in terminal.text


@pytest.mark.parametrize("how", ["SIGTERM", "q"])
async def test_ended_before_its_first_frame_it_leaves_a_sane_terminal(cluster: Path, state: Path, how: str) -> None:
    async with Terminal() as terminal:
        await until(lambda: ENTERS_THE_SCREEN in terminal.raw, "the alternate screen")
        terminal.type("q") if how == "q" else terminal.process.terminate()
        assert await terminal.ended() == 0, terminal.text[-3000:]
        assert terminal.attributes() == terminal.attributes_before
        assert LEAVES_THE_SCREEN in terminal.raw
        assert await until(lambda: not ours(state), "nothing to run any more")


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGTSTP])
async def test_stopped_and_continued_it_goes_on(cluster: Path, state: Path, how: signal.Signals) -> None:
    async with Terminal() as terminal:
        await terminal.sees(*TIERS)
        console = psutil.Process(terminal.process.pid)
        for entered in (1, 2):
            console.send_signal(how)
            await until(lambda: console.status() == psutil.STATUS_STOPPED, "it is stopped")
            console.send_signal(signal.SIGCONT)
            await until(lambda n=entered: terminal.raw.count(ENTERS_THE_SCREEN) > n, "it goes on")
            await terminal.sees(*TIERS, since=terminal.raw.rindex(ENTERS_THE_SCREEN))
        terminal.type("q")  # a forgotten thread that reads keys would keep the process alive
        assert await terminal.ended() == 0
        assert terminal.attributes() == terminal.attributes_before


async def test_a_connection_that_hangs_before_it_is_lost_leaves_no_stray(cluster: Path, state: Path) -> None:
    """Nobody reads the terminal any more, so the console cannot draw; then the terminal is closed."""
    async with Terminal(size=(160, 45)) as terminal:
        await terminal.sees(*TIERS)
        terminal.deafen()
        await terminal.chokes()
        terminal.hang_up()
        await terminal.ended()
        assert await until(lambda: not ours(state), "nothing to run any more")


async def test_a_broken_inventory_opens_the_last_good_one_read_only(cluster: Path, state: Path) -> None:
    async with Terminal() as terminal:
        await terminal.sees(*TIERS)
        terminal.type("q")
        assert await terminal.ended() == 0, terminal.text[-3000:]
    broken(cluster)
    async with Terminal(size=(300, 45)) as terminal:
        await terminal.sees(*TIERS, "READ-ONLY", "line 9: not valid TOML", "Showing the last good one, read-only.")
        terminal.type("s")
        await terminal.sees("This console is read-only: it changes nothing.")
        terminal.type("q")
        assert await terminal.ended() == 0, terminal.text[-3000:]


async def test_a_broken_inventory_without_a_last_good_one_is_a_message(cluster: Path) -> None:
    broken(cluster)
    async with Terminal() as terminal:
        assert await terminal.ended() == 2
        assert terminal.attributes() == terminal.attributes_before
        await terminal.sees("not valid TOML")
        assert terminal.text.strip().count("\n") == 0
        assert terminal.text.startswith(f"tierdeck: {cluster}, line 9: ")


@pytest.mark.parametrize("without", ["</dev/null", ">/dev/null", "2>/dev/null"])
async def test_half_a_terminal_is_no_terminal(cluster: Path, without: str) -> None:
    async with Terminal(command=("sh", "-c", f'exec "$@" {without}', "sh", *TIERDECK)) as terminal:
        assert await terminal.ended() == 2
        assert terminal.attributes() == terminal.attributes_before
        if not without.startswith("2"):
            await terminal.sees("The console needs a terminal.")


@pytest.mark.parametrize("words", [(), ("demo",)])
async def test_without_a_terminal_it_says_what_to_do(cluster: Path, words: tuple[str, ...]) -> None:
    ran = await tierdeck(*words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("tierdeck: The console needs a terminal.")
    assert "tierdeck status --json" in ran.err


def colours(raw: bytes) -> set[tuple[str, ...]]:
    """The colours that were set: (red, green, blue), or the number of one of a palette."""
    found: set[tuple[str, ...]] = set()
    for codes in re.findall(rb"\x1b\[([0-9;]*)m", raw):
        parts = codes.decode().split(";")
        while parts:
            code = parts.pop(0)
            if code in ("38", "48"):
                count = 4 if parts[0] == "2" else 2
                found.add(tuple(parts[1:count]))
                parts = parts[count:]
            elif re.fullmatch("[349][0-7]|10[0-7]", code):
                found.add((code,))
    return found


async def test_no_color_tells_nothing_by_hue(cluster: Path) -> None:
    """Shades of grey alone, as Textual does it: the cursor and the focus are still seen."""
    async with Terminal(env={"NO_COLOR": "1"}) as terminal:
        await terminal.sees(*TIERS, "REFUSED")
        found = colours(terminal.raw)
    assert found
    assert [colour for colour in found if len(colour) != 3 or len(set(colour)) > 1] == []


async def test_over_ssh_an_idle_console_sends_little(mark: SimulatedCluster) -> None:
    env = {"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.1 22", "TIERDECK_CLUSTER": str(mark.inventory_path)}
    async with Terminal(env=env, size=(160, 45)) as terminal:
        await terminal.sees("REMOTE", "REFUSED")
        before = await terminal.settled()
        await terminal.reads_for(5.0)
        assert 0 < len(terminal.raw) - before < 5 * 1024


async def test_a_procedure_outlives_the_console_that_started_it(mark: SimulatedCluster, state: Path) -> None:
    server = mark.endpoints["remote/a"].server
    await server.inflict(HttpFault("refuse"))
    env = {"TIERDECK_CLUSTER": str(mark.inventory_path)}
    async with Terminal(env=env) as terminal:
        await terminal.sees("REMOTE", "created")
        seen = len(terminal.raw)
        terminal.type("3s")
        await terminal.sees("Enter plan", since=seen)
        terminal.type("\r")
        await terminal.sees("docker start a", "Cancel", since=seen)
        await terminal.settled()
        terminal.type("\t\r")
        await until(lambda: mark.nodes["mark"].container("a").running, "the first container")
        (procedure,) = Procedures(state, state).list()
        await terminal.sees("Esc detach")
        terminal.hang_up()
        await terminal.ended()
    listed = await tierdeck("procedures", "list", "--json", env=env)
    (row,) = json.loads(listed.out)["procedures"]
    assert (row["id"], row["state"]) == (procedure.id, "running")
    (runner,) = await until(lambda: len(left := ours(state)) == 1 and left, "only the runner")
    runner.send_signal(signal.SIGHUP)
    await server.heal()
    attached = await tierdeck("procedures", "attach", procedure.id, env=env)
    assert (attached.code, "finished done" in attached.out) == (0, True)
    assert mark.endpoints["remote/b"].program.phase == "ready"
    assert await until(lambda: not ours(state), "nothing to run any more")
