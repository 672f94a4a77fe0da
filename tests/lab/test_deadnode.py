"""The node's five faults are there and go again by hand, and what recovery stands on works against real parts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from pydantic import SecretStr

from backends.cluster.files import load
from backends.cluster.tables import Rdp
from backends.errors import RdpError, WakeError
from backends.reach import wake
from backends.reach.local import LocalShell
from backends.reach.nodes import NodeReach
from backends.reach.rdp import Desktop, desktop
from backends.secrets import Secrets
from tests.lab.deadnode import PASSWORD, DeadNode
from tests.lab.desk import PORT as RDP_PORT
from tests.lab.desk import USER
from tests.lab.process import wait_until

LOGIN = Rdp(user=USER, password=f"env:{PASSWORD}", port=RDP_PORT)


def state(node: DeadNode) -> tuple[bool, bool, bool, bool]:
    """What answers: SSH, Docker, RDP, all containers."""
    served = [node.serves(name) for name in node.ports]
    assert len(set(served)) == 1, served
    return node.ssh_answers(), node.docker_answers(), node.rdp_answers(), served[0]


async def until(condition: Callable[[], bool], limit: float) -> None:
    async with asyncio.timeout(limit):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def session(
    node: DeadNode, tmp_path: Path, password: str = "", *, limit: float = 20
) -> AbstractAsyncContextManager[Desktop]:
    secret = SecretStr(password or node.desk.password)
    return desktop(node.lan.address, LOGIN, secret, pins=tmp_path / "pins", limit=limit)


def children(name: str) -> set[str]:
    done = subprocess.run(["pgrep", "-x", name], capture_output=True, text=True, check=False)
    return set(done.stdout.split())


def seen_of(pids: set[str]) -> bytes:
    """What everybody may see of processes, and their owner of their environment."""
    return b"".join(Path(f"/proc/{pid}/{what}").read_bytes() for pid in pids for what in ("cmdline", "environ"))


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ("kill_containers", (True, True, True, False)),
        ("kill_docker", (True, False, True, False)),
        ("log_off", (False, False, True, False)),
        ("quit_docker_desktop", (True, False, True, False)),
    ],
)
def test_a_fault_is_there_and_goes_by_hand(fault: str, left: tuple[bool, ...], dead_node: DeadNode) -> None:
    assert state(dead_node) == (True, True, True, True)
    getattr(dead_node, fault)()
    assert state(dead_node) == left
    dead_node.heal()
    assert state(dead_node) == (True, True, True, True)


def test_a_sleeping_node_answers_nothing(dead_node: DeadNode) -> None:
    dead_node.sleep()
    assert not dead_node.ssh_answers()
    assert not dead_node.rdp_answers()
    assert not any(map(dead_node.serves, dead_node.ports))
    dead_node.heal()
    assert state(dead_node) == (True, True, True, True)


async def restart(node: DeadNode) -> tuple[int, str]:
    """The inventory's own command, over SSH."""
    inventory = load(node.config).inventory
    mark = inventory.node_named["mark"]
    assert mark.docker
    assert mark.docker.restart
    async with NodeReach(mark, inventory, None, Secrets(), polling=False) as reach:
        try:
            done = await reach.shell.run(mark.docker.restart.split(), timeout=60)
        finally:
            await reach.close()
    return done.status, done.stderr


async def test_the_restart_command_brings_docker_back_unless_it_needs_a_logon(dead_node: DeadNode) -> None:
    dead_node.kill_docker()
    assert await restart(dead_node) == (0, "")
    assert dead_node.docker_answers()
    dead_node.quit_docker_desktop()
    status, words = await restart(dead_node)
    assert (status, "logs on" in words) == (1, True)
    assert not dead_node.docker_answers()


async def test_a_magic_packet_from_here_wakes_it(dead_node: DeadNode) -> None:
    dead_node.sleep()
    other = dead_node.lan.mac[:-2] + "fe"
    await wake.send_here(other, address=dead_node.lan.address)
    assert not dead_node.ssh_answers()
    sent = await wake.send_here(dead_node.lan.mac, address=dead_node.lan.address)
    assert dead_node.lan.address.rpartition(".")[0] + ".255" in sent
    await until(dead_node.ssh_answers, 10)


@pytest.mark.parametrize("way", ["local", "ssh"])
async def test_a_magic_packet_from_another_node_wakes_it(way: str, dead_node: DeadNode) -> None:
    dead_node.sleep()
    inventory = load(dead_node.config).inventory
    nas = inventory.node_named["nas"]
    async with NodeReach(nas, inventory, "nas" if way == "local" else None, Secrets(), polling=False) as reach:
        said = await wake.send_from(reach.shell, dead_node.lan.mac, dead_node.lan.address, timeout=15)
        await reach.close()
    assert said in ("python3", "perl")
    await until(dead_node.ssh_answers, 10)


async def test_a_lan_of_nobody(dead_node: DeadNode) -> None:
    """A namespace without a cable has no network that takes the packet."""
    alone = LocalShell({"PATH": os.environ["PATH"]})
    made = await alone.run(["unshare", "--net", sys.executable, "-c", PACKET], timeout=20)
    assert "could not be sent from here" in made.stdout
    assert WakeError.__name__ in made.stdout


PACKET = """
import asyncio
from backends.reach import wake
try:
    asyncio.run(wake.send_here("02:00:00:00:00:01", address="10.214.1.2"))
except Exception as error:
    print(type(error).__name__, error)
"""


async def test_a_logon_brings_ssh_and_docker_back(dead_node: DeadNode, tmp_path: Path) -> None:
    dead_node.log_off()
    before = children("Xvfb") | children("xfreerdp")
    async with session(dead_node, tmp_path) as held:
        assert dead_node.desk.logged_on()
        await until(dead_node.ssh_answers, 20)
        await until(dead_node.docker_answers, 40)
        assert held.alive
        ours = (children("Xvfb") | children("xfreerdp")) - before
        assert len(ours) == 2
        assert dead_node.desk.password.encode() not in seen_of(ours)
    assert not (children("Xvfb") | children("xfreerdp")) & ours
    assert dead_node.desk.logged_on(), "it was disconnected, not logged off"
    assert dead_node.docker_answers()


async def test_a_logon_brings_docker_desktop_back(dead_node: DeadNode, tmp_path: Path) -> None:
    dead_node.quit_docker_desktop()
    async with session(dead_node, tmp_path):
        await until(dead_node.docker_answers, 40)


async def test_a_second_session_takes_up_the_first(dead_node: DeadNode, tmp_path: Path) -> None:
    for _ in range(2):
        async with session(dead_node, tmp_path) as held:
            assert held.alive
    assert (tmp_path / "pins").is_dir()


async def test_a_wrong_password(dead_node: DeadNode, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RdpError, match="wrong") as caught:
        async with session(dead_node, tmp_path, "not-the-password", limit=6):
            pass
    assert caught.value.fault == "password"
    assert "not-the-password" not in str(caught.value) + caught.value.why
    assert time.monotonic() - began < 10
    assert not dead_node.desk.logged_on()


async def test_a_changed_certificate(dead_node: DeadNode, tmp_path: Path) -> None:
    async with session(dead_node, tmp_path):
        pass
    dead_node.desk.new_certificate()
    dead_node.heal()
    with pytest.raises(RdpError, match="another certificate") as caught:
        async with session(dead_node, tmp_path):
            pass
    assert caught.value.fault == "certificate"
    assert not dead_node.desk.logged_on(), "the password never went there"
    async with desktop(dead_node.lan.address, LOGIN, SecretStr(dead_node.desk.password), pins=tmp_path / "new"):
        pass


async def test_a_node_that_dies_while_it_is_held(dead_node: DeadNode, tmp_path: Path) -> None:
    async with session(dead_node, tmp_path) as held:
        dead_node.desk.close()
        await until(lambda: not held.alive, 20)
        with pytest.raises(RdpError, match="ended"):
            held.check()
    with pytest.raises(RdpError) as caught:
        async with session(dead_node, tmp_path):
            pass
    assert caught.value.fault == "refused"


async def test_nothing_is_left_of_a_killed_holder(dead_node: DeadNode, tmp_path: Path) -> None:
    before = children("Xvfb") | children("xfreerdp")
    command = [sys.executable, "-c", HOLD, dead_node.lan.address, str(tmp_path / "pins")]
    holder = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert holder.stdout
        assert await holder.stdout.readline() == b"held\n"
        assert len((children("Xvfb") | children("xfreerdp")) - before) == 2
        holder.send_signal(signal.SIGKILL)
        await holder.wait()
        await asyncio.to_thread(
            wait_until, lambda: not (children("Xvfb") | children("xfreerdp")) - before, 10, "they are gone"
        )
        assert dead_node.desk.logged_on()
    finally:
        if holder.returncode is None:
            holder.kill()
            await holder.wait()


HOLD = f"""
import asyncio, os, sys
from pathlib import Path
from pydantic import SecretStr
from backends.cluster.tables import Rdp
from backends.reach.rdp import Desktop, desktop

async def main():
    login = Rdp(user="{USER}", password="env:{PASSWORD}", port={RDP_PORT})
    async with desktop(sys.argv[1], login, SecretStr(os.environ["{PASSWORD}"]), pins=Path(sys.argv[2])):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
