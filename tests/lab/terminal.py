"""A console in a real terminal, driven as a person would, and what is looked at once it has ended."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.cli.driving import ours
from tests.lab.process import LabError, wait_until
from tests.procedures.test_process import ROOT

CONSOLE = (sys.executable, "-m", "tui.cli")
WIDTH, HEIGHT = 160, 45
AROUND = 'stty -g >"$0/before"; "$@"; echo $? >"$0/code"; stty -g >"$0/after"'
"""Runs the console as a shell does, and notes the terminal's settings before and after."""


class Terminal:
    """A tmux session of its own server, 160 by 45, with the console in it."""

    def __init__(self, folder: Path, env: Mapping[str, str], command: Sequence[str] = CONSOLE) -> None:
        self._folder = folder
        self._socket = str(folder / "tmux")
        self.state = Path(env["TIERDECK_STATE"])
        size = ("-x", str(WIDTH), "-y", str(HEIGHT))
        words = ("sh", "-c", AROUND, str(folder), *command)
        self._tmux("-f", os.devnull, "new-session", "-d", *size, *words, env=env)

    def _tmux(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words], capture_output=True, text=True, env=env, timeout=20, check=True
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        """Press keys, each as tmux calls it."""
        for key in keys:
            self._tmux("send-keys", key)
            time.sleep(0.2)  # as a person would; a burst could be taken for an escape sequence

    def screen(self) -> str:
        """What stands on it, wrapped lines joined."""
        return self._tmux("capture-pane", "-p", "-J")

    def shows(self, *words: str) -> bool:
        """Whether all of these words stand on it."""
        text = self.screen()
        return all(word in text for word in words)

    def until(self, limit: float, *words: str) -> None:
        """Wait for all of these words."""
        try:
            wait_until(lambda: self.shows(*words), limit, str(words))
        except LabError as error:
            raise LabError(f"{error}; it shows:\n{self.screen()}") from None

    def resize(self, width: int, height: int) -> None:
        """Change the size of its window."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def console(self) -> psutil.Process:
        """The console's process; the runners it starts are sessions of their own."""
        pane = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        (found,) = psutil.Process(pane).children()
        return found

    def code(self, limit: float = 30) -> int:
        """Wait for the console's end; how it ended, as a shell says it."""
        wait_until((self._folder / "after").exists, limit, "the console to end")
        return int((self._folder / "code").read_text())

    def sane(self) -> bool:
        """Whether it left the terminal's settings as it found them."""
        wait_until(lambda: (self._folder / "after").read_text(), 5, "the terminal's settings")
        return (self._folder / "after").read_text() == (self._folder / "before").read_text()

    def close(self) -> None:
        """End the session and all in it; one that ended by itself is gone already."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, timeout=20, check=False)


@contextmanager
def terminal(
    cluster: Path, state: Path, env: Mapping[str, str], command: Sequence[str] = CONSOLE
) -> Iterator[Terminal]:
    """The console on this cluster.toml, with `env` for what it refers to."""
    with TemporaryDirectory(prefix="td") as short:
        told = {"TIERDECK_CLUSTER": str(cluster), "TIERDECK_STATE": str(state), "XDG_RUNTIME_DIR": short}
        made = Terminal(
            Path(short),
            {**os.environ, **env, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LANG": "C.UTF-8", **told},
            command,
        )
        try:
            yield made
        finally:
            made.close()


def left_over(state: Path) -> list[str]:
    """What a console that ended left behind or broke: processes, and files of its state that cannot be read."""
    found = [shlex.join(process.cmdline()) for process in ours(state)]
    for path in state.glob("*.sqlite3"):
        with closing(sqlite3.connect(path)) as history:
            (verdict,) = history.execute("PRAGMA integrity_check").fetchone()
        found += [] if verdict == "ok" else [f"{path.name}: {verdict}"]
    for journal in (state / "procedures").glob("*.jsonl"):
        for line in journal.read_text().splitlines():
            json.loads(line)
    return found
