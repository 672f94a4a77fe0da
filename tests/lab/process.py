"""Processes of the lab that cannot outlive the test run, and how one waits for them."""

import contextlib
import os
import random
import select
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

KEEPER = Path(__file__).with_name("keeper.py")
POLL = 0.02
PORTS = (20000, 32768)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LabError(Exception):
    """A real part did not do what the lab needs; the message carries what it said last."""


def free_port() -> int:
    """A TCP port of loopback that nobody uses, from below those that outgoing connections get while a server starts."""
    dice = random.SystemRandom()
    for _ in range(100):
        port = dice.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise LabError(f"no free port between {PORTS[0]} and {PORTS[1]}")


def wait_until(condition: Callable[[], object], limit: float, what: str) -> None:
    """Asks until the condition holds; LabError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {limit:g} s")
        time.sleep(POLL)


def listens(address: str, port: int) -> bool:
    """Whether a TCP connection is accepted."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 2):
        return True
    return False


def http_status(url: str, *, limit: float = 2.0) -> int:
    """The status of a GET, or 0 when nobody answers."""
    try:
        with OPENER.open(url, timeout=limit) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def serves(url: str) -> bool:
    """Whether a GET is answered with 200."""
    return http_status(url) == 200


class Kept:
    """A process kept by keeper.py: it and all it starts end with this object, and with the test run however it ends."""

    def __init__(self, command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        """Nothing runs before `start` or `with`; `env` replaces the whole environment."""
        self.log = log
        self.pid = 0
        self.wrap: list[str] = []
        """A command that runs the keeper itself, say in other namespaces."""
        self.leftovers: dict[str, str] = {}
        """What is removed at the end: a network device ("link"), "netns", control groups ("cgroup"), a "folder"."""
        self._command = command
        self._env = env
        self._keeper: subprocess.Popen[bytes] | None = None
        self._exited: int | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        try:
            self.start()
            self.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Starts the command (again), and returns when it has a process id."""
        if not self._keeper:
            options = [*(f"--{what}={name}" for what, name in self.leftovers.items()), "--"]
            self._keeper = subprocess.Popen(
                [*self.wrap, sys.executable, "-I", "-S", KEEPER, self.log, *options, *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._env,
                start_new_session=True,
            )
        self._exited, self.pid = None, 0
        self._say("start")
        wait_until(lambda: self.running, 10, f"start of {self.name}")

    def ready(self) -> None:
        """Waits until the server serves."""

    @property
    def name(self) -> str:
        """The program's name."""
        return Path(self._command[0]).name

    @property
    def running(self) -> bool:
        """Whether the command itself still runs."""
        self._listen()
        return bool(self._keeper and self.pid) and self._exited is None

    def end(self, signal: str = "TERM", *, limit: float = 15.0) -> None:
        """Sends TERM or KILL to the command itself, whose children may live on, and waits until it has exited."""
        self._say(signal)
        wait_until(lambda: not self.running, limit, f"end of {self.name} (pid {self.pid}) by SIG{signal}")

    def wait_until(self, condition: Callable[[], object], limit: float, what: str) -> None:
        """Waits for the condition, and no longer than the process lives."""
        try:
            wait_until(lambda: condition() or not self.running, limit, what)
        except LabError as error:
            raise LabError(f"{error}; {self.tail()}") from None
        if not self.running:
            raise LabError(f"{what}: {self.name} exited with {self._exited}; {self.tail()}")

    def tail(self, lines: int = 5) -> str:
        """The last lines of the log, for an error message."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"{self.log}: " + " | ".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Ends the process and all its descendants, and removes what they left; a second time does nothing."""
        keeper, self._keeper = self._keeper, None
        if not keeper:
            return
        try:
            _, said = keeper.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.communicate()
            raise LabError(f"the keeper of {self.name} did not finish") from None
        if keeper.returncode:
            raise LabError(f"the keeper of {self.name} failed: {said.decode(errors='replace')[-400:]}")

    def _say(self, word: str) -> None:
        assert self._keeper
        assert self._keeper.stdin
        self._keeper.stdin.write(word.encode() + b"\n")
        self._keeper.stdin.flush()

    def _listen(self) -> None:
        """Takes in what the keeper has said so far."""
        while self._keeper and self._keeper.stdout and select.select([self._keeper.stdout], [], [], 0)[0]:
            said = os.read(self._keeper.stdout.fileno(), 4096)
            if not said:
                why = self._keeper.communicate()[1].decode(errors="replace")
                raise LabError(f"the keeper of {self.name} is gone: {why[-400:]}")
            *lines, self._unread = (self._unread + said).split(b"\n")
            for word, number in (line.split() for line in lines):
                if word == b"pid":
                    self.pid = int(number)
                else:
                    self._exited = int(number)
