"""The terminal itself: a storm of resizes, from before the first frame on, neither hangs nor ends the console."""

from __future__ import annotations

import os
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

from tests.bench.terminal import Terminal, environment
from tests.tui.sample import TOML


def test_a_storm_of_resizes(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(TOML)
    env = environment() | {"TIERDECK_STATE": str(tmp_path / "state")}
    with Terminal([sys.executable, "-m", "tui.cli", "--cluster", str(path)], env) as terminal:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            for columns, rows in ((20, 5), (160, 45), (80, 24), (1, 1), (160, 45)):
                ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            terminal.read(0.002)
        terminal.raw = b""
        terminal.send("?")
        terminal.until(["Give the pane the whole screen"])
        terminal.send("q")
        terminal.raw = b""
        terminal.until(["1 Tiers"])
        terminal.send("q")
        end = time.monotonic() + 15
        while os.waitpid(terminal.pid, os.WNOHANG) == (0, 0):
            terminal.read(0.05)
            assert time.monotonic() < end, "q did not end it"
