"""Keeps a desktop client, and the display it draws on: both end when whoever holds our standard input lets go of it.

Run as a script by backends.reach.rdp, and so imports nothing of ours. The first line of its input is JSON: `client`
(a command), `environment`, `password` and `screen` (the path of Xvfb, or null where the client needs none). At the next
line, at the end of the input, or with the client, everything ends. What the client says is passed on; our own words
begin with "keeper ".
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

GRACE = 3.0
"""Seconds for the client, then for the display, to end by themselves."""

SCREEN_LIMIT = 10.0
"""Seconds for a display to open."""

PR_SET_PDEATHSIG = 1
FAMILY_WILD = 65535


def say(words: str) -> None:
    """Tell the holder; where it has died there is nobody to tell."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"keeper {words}\n".encode())


def end_with_us() -> None:
    """In a child, before it becomes its program: it ends should we be killed outright. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and make it."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cookie(folder: Path) -> Path:
    """A file with a secret for the display: without it every user of this machine could watch the desktop."""
    path = folder / "authority"
    name, value = b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16)
    head = struct.pack(">HHH", FAMILY_WILD, 0, 0) + struct.pack(">H", len(name)) + name
    path.write_bytes(head + struct.pack(">H", len(value)) + value)
    path.chmod(0o600)
    return path


def open_screen(stack: contextlib.ExitStack, program: str, folder: Path, environment: dict[str, str]) -> None:
    """Start Xvfb on a number of its own choice, and put it into the client's environment."""
    authority = cookie(folder)
    theirs, ours = os.pipe()
    command = [program, "-displayfd", str(ours), "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-noreset"]
    screen = subprocess.Popen(
        [*command, "-auth", str(authority)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=1,
        env=environment,
        pass_fds=[ours],
        preexec_fn=end_with_us,
    )
    os.close(ours)
    stack.callback(os.close, theirs)
    stack.callback(end, screen)
    ready, _, _ = select.select([theirs], [], [], SCREEN_LIMIT)
    number = os.read(theirs, 16).decode().strip() if ready else ""
    if not number:
        raise RuntimeError("Xvfb opened no display")
    environment |= {"DISPLAY": f":{number}", "XAUTHORITY": str(authority)}


def hold(told: dict[str, object]) -> None:
    """Start the client and wait until it or its holder ends."""
    environment: dict[str, str] = dict(told["environment"])  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory(prefix="tierdeck-desktop-") as folder, contextlib.ExitStack() as stack:
        if told["screen"]:
            open_screen(stack, str(told["screen"]), Path(folder), environment)
        awake, bell = os.pipe()
        os.set_blocking(bell, False)
        signal.set_wakeup_fd(bell)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        client = subprocess.Popen(
            told["client"],  # type: ignore[call-overload]
            stdin=subprocess.PIPE,
            stdout=1,
            stderr=1,
            env=environment,
            preexec_fn=end_with_us,
        )
        stack.callback(end, client)
        with contextlib.suppress(BrokenPipeError), client.stdin:
            client.stdin.write(f"{told.pop('password')}\n".encode())
        say(f"pid {client.pid}")
        while client.poll() is None:
            ready, _, _ = select.select([0, awake], [], [])
            if 0 in ready:
                return
            os.read(awake, 4096)
        say(f"exit {client.returncode}")


def main() -> None:
    """Do what the first line says, and clean up on every way out."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        hold(json.loads(_line()))
    except (OSError, RuntimeError) as error:
        say(f"failed {error}")


def _line() -> str:
    """The first line of the input, and not a byte more: what follows is waited for."""
    line = b""
    while (byte := os.read(0, 1)) and byte != b"\n":
        line += byte
    return line.decode()


if __name__ == "__main__":
    main()
