"""The console driven through the node's faults in a real terminal: `r`, the plan with its commands, the verdict."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.lab.cache import require
from tests.lab.deadnode import FAULTS, DeadNode, start_dead_node
from tests.lab.process import wait_until
from tests.procedures.test_process import ROOT

SHOWN = {
    "kill_containers": ("containers are down: mark-i", "docker start mark-i"),
    "kill_docker": ("SSH answers, Docker does not", "service.sh restart docker"),
    "log_off": ("SSH is silent, its desktop service answers", "xfreerdp /v:"),
    "sleep": ("asleep or off: nothing answers", "Wake-on-LAN packet to"),
    "quit_docker_desktop": ("SSH answers, Docker does not", "service.sh restart docker"),
}
"""The fault's sentence and a command, both in the dialog before anything runs."""


class Terminal:
    """A tmux session of its own server, 160 by 45."""

    def __init__(self, folder: Path, command: str, env: dict[str, str]) -> None:
        self._socket = str(folder / "tmux")
        self._tmux("-f", os.devnull, "new-session", "-d", "-x", "160", "-y", "45", command, env=env)

    def _tmux(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words], capture_output=True, text=True, env=env, timeout=20, check=True
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        for key in keys:
            self._tmux("send-keys", key)
            time.sleep(0.2)  # as a person would; a burst could be taken for an escape sequence

    def shows(self, *words: str) -> bool:
        text = self._tmux("capture-pane", "-p", "-J")
        return all(word in text for word in words)

    def until(self, limit: float, *words: str) -> None:
        wait_until(lambda: self.shows(*words), limit, f"{words} in:\n{self._tmux('capture-pane', '-p')}")

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeadNode]:
    require("docker", "sshd", "llamacpp", "rdp", "netns")
    with start_dead_node(tmp_path_factory.mktemp("dead")) as made:
        yield made


@pytest.fixture
def terminal(node: DeadNode, tmp_path: Path) -> Iterator[Terminal]:
    node.heal()
    with TemporaryDirectory(prefix="td") as short:
        told = {"TIERDECK_CLUSTER": str(node.config), "TIERDECK_STATE": str(tmp_path), "XDG_RUNTIME_DIR": short}
        env = {**os.environ, **node.env, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LANG": "C.UTF-8", **told}
        made = Terminal(Path(short), shlex.join([sys.executable, "-m", "tui.cli"]), env)
        try:
            yield made
        finally:
            made.close()
    node.heal()


HELD = ("log_off", "quit_docker_desktop")
"""Those in which a desktop session is held for a minute."""


@pytest.mark.parametrize("fault", [pytest.param(f, marks=pytest.mark.long if f in HELD else ()) for f in FAULTS])
def test_r_and_a_yes_bring_it_back(
    fault: str, node: DeadNode, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.until(60, "REMOTE", "3/3")
    getattr(node, fault)()
    began = time.monotonic()
    terminal.press("1", "r")
    terminal.until(60, *SHOWN[fault], "Cancel")
    planned = time.monotonic() - began
    terminal.press("Tab", "Enter")
    terminal.until(240, "done")
    wait_until(node.whole, 120, "it to be whole")
    terminal.until(60, "Esc back")
    took = time.monotonic() - began
    terminal.press("Escape")
    terminal.until(60, "REMOTE", "3/3")
    with capsys.disabled():
        print(f"\n{fault}: plan shown after {planned:.1f} s, recovered after {took:.1f} s")
