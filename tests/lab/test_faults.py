"""The fault suite on real parts: what was broken, what the screen said of it, and that nothing was lost.

The simulator's half is tests/faults; the node's own five faults, and what brings it back, are in test_console.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from backends.procedures.commands import Procedures
from tests.lab.cache import require
from tests.lab.deadnode import NAMES, PROGRAMS, DeadNode
from tests.lab.process import Kept, wait_until
from tests.lab.terminal import HEIGHT, WIDTH, Terminal, left_over, terminal

ALL_SERVE = ("HEALTHY   3/3",)
HELP = "Give the pane the whole screen"
ANSWERS = 3.0
"""Seconds until the screen a key asked for is there, whatever the cluster does, with tmux's own part in it."""


@pytest.fixture
def console(dead_node: DeadNode, tmp_path: Path) -> Iterator[Terminal]:
    """All is well on its screen."""
    with terminal(dead_node.config, tmp_path / "console", dead_node.env) as made:
        made.until(60, *ALL_SERVE)
        yield made


def nothing_is_lost(console: Terminal) -> None:
    """It closes as ever, the terminal is as it was, and what it wrote can be read."""
    console.press("q")
    assert console.code() == 0
    assert console.sane()
    wait_until(lambda: not left_over(console.state), 20, f"nothing to be left: {left_over(console.state)}")


# What is broken between here and the node, and on it.


def _route(*words: str, netns: str = "") -> None:
    inside = ["-n", netns] if netns else []
    subprocess.run(["ip", *inside, "route", *words], check=True, timeout=10)


@contextmanager
def partition(node: DeadNode) -> Iterator[None]:
    """A router in between says that there is no way."""
    _route("add", "unreachable", f"{node.lan.address}/32")
    try:
        yield
    finally:
        _route("del", "unreachable", f"{node.lan.address}/32")


@contextmanager
def half_open(node: DeadNode) -> Iterator[None]:
    """What we send arrives; what the node answers falls into a hole, on open connections too."""
    _route("add", "blackhole", f"{node.lan.ours}/32", netns=node.lan.netns)
    try:
        yield
    finally:
        _route("del", "blackhole", f"{node.lan.ours}/32", netns=node.lan.netns)


@contextmanager
def slow_and_lossy(node: DeadNode) -> Iterator[None]:
    """300 ms later each way, and one packet in 20 is lost."""
    require("tun")
    line: list[str | Path] = [
        sys.executable,
        "-I",
        "-S",
        PROGRAMS / "line.py",
        node.lan.netns,
        node.lan.ours,
        node.lan.address,
    ]
    log = node.folder / "line.log"
    log.unlink(missing_ok=True)
    with Kept([*line, "0.3", "0.05"], log) as kept:
        kept.wait_until(lambda: "open" in log.read_text(), 10, "the line to open")
        yield


@contextmanager
def docker_restarted(node: DeadNode) -> Iterator[None]:
    """As `systemctl restart docker`: the containers, which have no restart policy, go with it."""
    node.engine.restart()
    yield


@contextmanager
def few_sessions(node: DeadNode) -> Iterator[None]:
    """sshd opens no session beside those of forwarding, and was restarted to know it."""
    settings = node.ssh.log.parent / "sshd_config"
    usual = settings.read_text()
    settings.write_text(usual.replace("MaxSessions 10", "MaxSessions 0"))
    node.ssh.close()
    try:
        node.ssh.start()
        node.ssh.ready()
        yield
    finally:
        settings.write_text(usual)
        node.ssh.close()


@dataclass(frozen=True)
class Broken:
    """A fault, and what stands on the screen while it lasts."""

    by: Callable[[DeadNode], AbstractContextManager[None]]
    says: tuple[str, ...]
    asked_by: tuple[str, ...] = ()
    """Keys after which it is said, where it is said to who asks."""


BROKEN = (
    Broken(partition, ("REMOTE is DOWN", "No route to host")),
    Broken(half_open, ("REMOTE is DOWN", "no answer from")),
    Broken(slow_and_lossy, (*ALL_SERVE, "<3 s")),
    Broken(docker_restarted, ("REMOTE is DOWN", "connect refused by", "stopped")),
    Broken(few_sessions, ("opens no further session",), asked_by=("1", "r")),
)


@pytest.mark.long
@pytest.mark.parametrize("row", BROKEN, ids=lambda row: row.by.__name__)
def test_a_fault_of_the_node_or_the_way_to_it_is_said_and_nothing_is_lost(
    row: Broken, dead_node: DeadNode, console: Terminal
) -> None:
    with row.by(dead_node):
        console.press(*row.asked_by)
        console.until(90, *row.says)
        console.press("Escape", "?")
        console.until(ANSWERS, HELP)
        console.press("Escape")
    dead_node.heal()
    console.press("U")
    console.until(90, *ALL_SERVE)
    nothing_is_lost(console)


# What happens to the console itself, in the midst of a start queue.


def _sent(which: signal.Signals) -> Callable[[Terminal, psutil.Process], None]:
    def send(console: Terminal, process: psutil.Process) -> None:
        process.send_signal(which)

    return send


def stopped_for_a_while(console: Terminal, process: psutil.Process) -> None:
    """Ctrl+Z from elsewhere, or a laptop that is closed."""
    process.suspend()
    time.sleep(6)
    process.resume()


def resized_without_end(console: Terminal, process: psutil.Process) -> None:
    """A window that somebody drags about."""
    for _ in range(20):
        console.resize(20, 5)
        console.resize(WIDTH, HEIGHT)


@dataclass(frozen=True)
class Struck:
    """What the console suffers, the exit code it ends with if it does, and whether it could tidy the terminal."""

    name: str
    by: Callable[[Terminal, psutil.Process], None]
    code: int | None = None
    tidies: bool = True


STRUCK = (
    Struck("SIGHUP", _sent(signal.SIGHUP), 0),
    Struck("SIGTERM", _sent(signal.SIGTERM), 0),
    Struck("SIGKILL", _sent(signal.SIGKILL), 128 + signal.SIGKILL, tidies=False),
    Struck("SIGSTOP and SIGCONT", stopped_for_a_while),
    Struck("resizes to 20x5 and back", resized_without_end),
)


def starts(node: DeadNode, since: float) -> list[str]:
    """The containers that Docker started, by its own log."""
    wanted = ["--filter", "event=start", "--format", "{{.Actor.Attributes.name}}"]
    return node.engine.docker("events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}", *wanted).split()


@pytest.mark.long
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name) for row in STRUCK],
)
def test_what_happens_to_the_console_in_mid_queue_loses_nothing(
    row: Struck, dead_node: DeadNode, console: Terminal
) -> None:
    dead_node.kill_containers()
    console.until(60, "REMOTE is DOWN")
    began = time.time()
    console.press("3", "s")
    console.until(30, "Enter plan")
    console.press("Enter")
    console.until(30, "docker start mark-i", "Cancel")
    console.press("Tab", "Enter")
    wait_until(lambda: starts(dead_node, began), 30, "the first container to start")
    row.by(console, console.console())
    if row.code is not None:
        assert console.code() == row.code
        assert console.sane() is row.tidies
    procedures = Procedures(console.state, dead_node.config)
    (procedure,) = procedures.list()
    wait_until(lambda: procedures.state(procedure.id).state == "done", 90, "the queue to be done")
    assert starts(dead_node, began) == list(NAMES)
    assert dead_node.whole()
    if row.code is None:
        console.until(30, "done", "Esc back")
        console.press("Escape")
        console.until(60, *ALL_SERVE)
        nothing_is_lost(console)
    wait_until(lambda: not left_over(console.state), 20, f"nothing to be left: {left_over(console.state)}")
    with terminal(dead_node.config, console.state, dead_node.env) as again:
        again.until(60, *ALL_SERVE)
        again.press("p")
        again.until(20, procedure.title, "done")


# What happens to the ground it stands on.


@pytest.mark.long
def test_a_full_disk_costs_history_and_says_so(dead_node: DeadNode, tmp_path: Path) -> None:
    state = tmp_path / "console"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", state], check=True, timeout=10)
    try:
        with terminal(dead_node.config, state, dead_node.env) as console:
            console.until(60, *ALL_SERVE)
            ballast = state / "ballast"
            _fill(ballast)
            dead_node.kill_containers()
            console.until(60, "REMOTE is DOWN", "connect refused by")
            console.until(30, "History is not recorded: database or disk is full")
            ballast.unlink()
            dead_node.heal()
            console.until(60, *ALL_SERVE, "History is recorded again")
            nothing_is_lost(console)
    finally:
        subprocess.run(["umount", "--lazy", state], check=True, timeout=10)


def _fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(512))
        except OSError:
            return


@pytest.mark.long
def test_a_wall_clock_that_jumps_changes_the_time_of_day_and_no_verdict(dead_node: DeadNode, tmp_path: Path) -> None:
    by = tmp_path / "shift"
    by.write_text("0")
    command = (sys.executable, "-m", "tests.lab.shifted", str(by))
    with terminal(dead_node.config, tmp_path / "console", dead_node.env, command) as console:
        console.until(60, *ALL_SERVE)
        for hours in (3, -3, 0):
            _set(by, hours * 3600)
            hour = time.strftime("%H:", time.localtime(time.time() + hours * 3600))
            wait_until(lambda hour=hour: hour in console.screen().splitlines()[0], 10, f"{hour} in the header")
            end = time.monotonic() + 8  # more than the intervals after which a reading is too old
            while time.monotonic() < end:
                assert console.shows(*ALL_SERVE), console.screen()
                assert not any(console.shows(word) for word in ("STALE", "DOWN", "no reading")), console.screen()
                time.sleep(0.2)
        nothing_is_lost(console)


def _set(by: Path, seconds: float) -> None:
    """Written whole, since it is read at any moment."""
    fresh = by.with_suffix(".new")
    fresh.write_text(str(seconds))
    os.replace(fresh, by)
