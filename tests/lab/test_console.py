"""The console driven through the node's faults in a real terminal: `r`, the plan with its commands, the verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cache import require
from tests.lab.deadnode import FAULTS, DeadNode, start_dead_node
from tests.lab.process import wait_until
from tests.lab.terminal import Terminal, terminal

SHOWN = {
    "kill_containers": ("containers are down: mark-i", "docker start mark-i"),
    "kill_docker": ("SSH answers, Docker does not", "service.sh restart docker"),
    "log_off": ("SSH is silent, its desktop service answers", "xfreerdp /v:"),
    "sleep": ("asleep or off: nothing answers", "Wake-on-LAN packet to"),
    "quit_docker_desktop": ("SSH answers, Docker does not", "service.sh restart docker"),
}
"""The fault's sentence and a command, both in the dialog before anything runs."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeadNode]:
    require("docker", "sshd", "llamacpp", "rdp", "netns")
    with start_dead_node(tmp_path_factory.mktemp("dead")) as made:
        yield made


@pytest.fixture
def console(node: DeadNode, tmp_path: Path) -> Iterator[Terminal]:
    node.heal()
    with terminal(node.config, tmp_path, node.env) as made:
        yield made
    node.heal()


HELD = ("log_off", "quit_docker_desktop")
"""Those in which a desktop session is held for a minute."""


@pytest.mark.parametrize("fault", [pytest.param(f, marks=pytest.mark.long if f in HELD else ()) for f in FAULTS])
def test_r_and_a_yes_bring_it_back(
    fault: str, node: DeadNode, console: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    console.until(60, "REMOTE", "3/3")
    getattr(node, fault)()
    began = time.monotonic()
    console.press("1", "r")
    console.until(60, *SHOWN[fault], "Cancel")
    planned = time.monotonic() - began
    console.press("Tab", "Enter")
    console.until(240, "done")
    wait_until(node.whole, 120, "it to be whole")
    console.until(60, "Esc back")
    took = time.monotonic() - began
    console.press("Escape")
    console.until(60, "REMOTE", "3/3")
    with capsys.disabled():
        print(f"\n{fault}: plan shown after {planned:.1f} s, recovered after {took:.1f} s")
