"""Runs the command line as people and scripts do: in a process of its own, or in a pseudo-terminal of its own."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
TIERDECK = (sys.executable, "-m", "tui.cli")
PATIENCE = 60.0
"""Seconds any of it may take on a machine that is busy with everything else."""

_ESCAPES = re.compile(
    r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|P[^\x1b]*\x1b\\|[()][A-Z0-9]|[=>78A-Z])"
)


async def until(condition: Callable[[], Any], what: str, *, limit: float = PATIENCE) -> Any:
    """Wait for a condition; fail naming `what` when the deadline passes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not (found := condition()):
        assert loop.time() < deadline, f"not within {limit:.0f} s: {what}"
        await asyncio.sleep(0.02)
    return found


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This test's environment, from which our packages are found wherever one stands."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **(more or {})}


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def hears_signals() -> None:
    """In the child: a hang-up and Ctrl+C end it, even where these tests were started with them ignored (nohup, `&`)."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def started(*words: str, env: Mapping[str, str] | None = None, **options: Any) -> AsyncGenerator[Process, None]:
    """A command that runs in a session of its own; killed on leaving if it still does."""
    options = {
        "stdin": asyncio.subprocess.DEVNULL,
        "stdout": PIPE,
        "stderr": PIPE,
        "preexec_fn": hears_signals,
        **options,
    }
    process = await asyncio.create_subprocess_exec(
        *TIERDECK, *words, env=environment(env), start_new_session=True, limit=1 << 24, **options
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def tierdeck(*words: str, env: Mapping[str, str] | None = None, **options: Any) -> Ran:
    """Run a command to its end."""
    async with started(*words, env=env, **options) as process, asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ran(process.returncode, (out or b"").decode(), (err or b"").decode())


_TAKES_THE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command with a terminal of its own, whose every byte is read and kept until `deafen`; hung up on leaving."""

    def __init__(
        self, *words: str, env: Mapping[str, str] | None = None, size: tuple[int, int] = (120, 40),
        command: Sequence[str] = TIERDECK,
    ) -> None:  # fmt: skip
        self._command = [*command, *words]
        self._environment = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"} | dict(env or {})
        self._size = size
        self.raw = b""
        self.process: Process

    async def __aenter__(self) -> Terminal:
        self._master, self._slave = pty.openpty()
        self.resize(*self._size)
        self.attributes_before = self.attributes()
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _TAKES_THE_TERMINAL, *self._command),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment(self._environment),
            start_new_session=True,
        )
        self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()
        os.close(self._slave)
        try:
            await self.ended(10.0)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    @property
    def text(self) -> str:
        """What was drawn, without escape sequences."""
        return _ESCAPES.sub("", self.raw.decode(errors="replace"))

    def attributes(self) -> list[Any]:
        """The terminal's settings: echo, line by line, signals."""
        return termios.tcgetattr(self._slave)

    def listen(self) -> None:
        """Read what comes."""
        asyncio.get_running_loop().add_reader(self._master, self._take)

    def deafen(self) -> None:
        """Read nothing any more, as a connection that hangs."""
        asyncio.get_running_loop().remove_reader(self._master)

    def _take(self) -> None:
        try:
            self.raw += os.read(self._master, 65536)
        except OSError:  # nobody has the other side open
            self.deafen()

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window; the console draws everything anew."""
        ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def chokes(self) -> None:
        """Have everything drawn anew until it can draw no more since nobody reads: until that takes no CPU."""
        console, before = psutil.Process(self.process.pid), -1.0
        for number in range(400):
            self.resize(self._size[0] - number % 2, self._size[1])
            await asyncio.sleep(0.2)
            spent = sum(console.cpu_times()[:2])
            if spent == before:
                return
            before = spent
        raise AssertionError("it could always draw")

    async def reads_for(self, seconds: float) -> None:
        """Read for so long."""
        await asyncio.sleep(seconds)

    async def settled(self) -> int:
        """Wait until nothing but the clock is drawn for half a second; how many bytes came until then."""
        before = -1
        while len(self.raw) - before > 200:
            before = len(self.raw)
            await self.reads_for(0.5)
        return len(self.raw)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def hang_up(self) -> None:
        """Close the terminal, as a lost SSH connection does: the command gets SIGHUP."""
        if self._master >= 0:
            self.deafen()
            os.close(self._master)
            self._master = -1

    async def sees(self, *words: str, since: int = 0, limit: float = PATIENCE) -> None:
        """Wait until all of these words were drawn, by the bytes after `since`."""

        def missing() -> list[str]:
            text = _ESCAPES.sub("", self.raw[since:].decode(errors="replace"))
            return [word for word in words if word not in text]

        try:
            await until(lambda: not missing() or self.process.returncode is not None, "words", limit=limit)
        finally:
            assert not missing(), f"{missing()} not in {self.text[-3000:]!r}"

    async def ended(self, limit: float = PATIENCE) -> int:
        """Wait for its end, and read the last it drew; its exit code, negative for a signal."""
        async with asyncio.timeout(limit):
            code = await self.process.wait()
        while self._master >= 0 and select.select([self._master], [], [], 0)[0]:
            self._take()
        return code


def ours(state: Path) -> list[psutil.Process]:
    """The processes that were started with this state directory, by us or by one another."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            told = process.environ().get("TIERDECK_STATE") == str(state) or str(state) in process.cmdline()
            if told and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
