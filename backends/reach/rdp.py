"""A desktop session on a node, opened by FreeRDP: Docker Desktop runs only where somebody is logged in.

Leaving it disconnects and never logs off, which would end Docker Desktop. The password goes by standard input only;
the certificate is believed on first use and pinned from then on. FreeRDP negotiates NLA, TLS or RDP security itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from backends.cluster.tables import Rdp
from backends.errors import RdpError
from backends.reach.bridge import Duplex
from backends.reach.local import LocalShell
from backends.reach.rdp_words import FILTERS, Progress, failure, last_words
from backends.reach.streams import split_lines

LOGIN_LIMIT: Final = 45.0
"""Seconds from the first packet to a session that has begun; a first Windows logon after boot is slow."""

CONNECT_LIMIT: Final = 5.0
"""Seconds for the desktop service to take a connection at all."""

CLOSE_LIMIT: Final = 8.0
"""Seconds for client and display to end: a little more than their keeper gives them."""

CLIENTS: Final = ("xfreerdp3", "xfreerdp", "sdl-freerdp3", "sdl-freerdp")
"""FreeRDP's programs, the preferred first."""

_KEEPER: Final = Path(__file__).with_name("rdp_keeper.py")
_OURS: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR")
_DISPLAY: Final = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XAUTHORITY")
_KEPT_LINES: Final = 400


@dataclass(frozen=True, slots=True)
class Client:
    """FreeRDP as it is installed here; `screen` is the Xvfb it draws on, None where it uses a display of ours."""

    program: str
    screen: str | None


def find_client(
    environment: Mapping[str, str] | None = None, *, which: Callable[[str], str | None] = shutil.which
) -> Client | None:
    """FreeRDP and something for it to draw on; None where either is missing.

    Xvfb is preferred to a display of ours, which ends with the terminal that lent it (`ssh -X`).
    """
    ours = os.environ if environment is None else environment
    program = next((found for name in CLIENTS if (found := which(name))), None)
    screen = which("Xvfb")
    own_window = program is not None and sys.platform == "darwin" and Path(program).name.startswith("sdl-")
    if program is None or (screen is None and not own_window and not _has_display(ours)):
        return None
    return Client(program, None if own_window else screen)


def _has_display(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def missing_words(*, which: Callable[[str], str | None] = shutil.which) -> tuple[str, str]:
    """What a desktop session lacks on this machine, and what to install."""
    if any(which(name) for name in CLIENTS):
        return "FreeRDP has no display to draw on.", "Install Xvfb (Debian, Ubuntu: apt install xvfb)."
    return (
        "no FreeRDP client is installed here, and a desktop session cannot be opened.",
        "Install it (Debian 13, Ubuntu 24.04: apt install freerdp3-x11 xvfb; before: freerdp2-x11 xvfb; "
        "macOS: brew install freerdp).",
    )


class Desktop:
    """A session that is held; it stays ours until it is left, or the node ends it."""

    def __init__(self, who: str, pins: Path) -> None:
        self.who = who
        self._pins = pins
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._progress = Progress()
        self._changed = asyncio.Event()
        self._ended = False

    @property
    def alive(self) -> bool:
        """Whether the client still holds the session."""
        return not self._ended

    def check(self) -> None:
        """Raise RdpError with the client's last words where the session is over."""
        if self._ended:
            raise self._failure()

    async def _follow(self, duplex: Duplex) -> None:
        async with aclosing(split_lines(duplex.reader.read)) as lines:
            async for line in lines:
                if line.startswith(("keeper exit ", "keeper failed ")):
                    if line.startswith("keeper failed "):
                        self._lines.append(line.removeprefix("keeper failed "))
                    self._ended = True
                else:
                    self._lines.append(line)
                    self._progress.hear(line)
                self._changed.set()
        self._ended = True
        self._changed.set()

    async def _begun(self, limit: float) -> None:
        """Wait until the login is accepted and a session has begun."""
        try:
            await self.until(lambda: self._progress.begun, limit)
        except TimeoutError:
            raise self._late(limit) from None

    async def accepted(self, limit: float) -> None:
        """Wait until the login is accepted (by NLA), before anything of a session; RdpError where it is not."""
        try:
            await self.until(lambda: self._progress.accepted, limit)
        except TimeoutError:
            words = f"{self.who}: the login was neither accepted nor refused within {limit:g} s."
            why = last_words(list(self._lines))
            raise RdpError(words, "Does the node hang?", fault="timeout", why=why) from None

    async def until(self, reached: Callable[[], bool], limit: float) -> None:
        """Wait for what the client says; RdpError where it ends first, TimeoutError after `limit` seconds."""
        async with asyncio.timeout(limit):
            while not reached():
                self.check()
                self._changed.clear()
                await self._changed.wait()

    def _late(self, limit: float) -> RdpError:
        why = last_words(list(self._lines))
        if self._progress.active:
            return RdpError(
                f"{self.who}: the desktop came, but no session began within {limit:g} s: its login screen most likely "
                "shows that user name or password are wrong, or asks something.",
                "Correct the secret that wake.rdp.password of this node names, or look at the login screen.",
                fault="password",
                why=why,
            )
        return RdpError(f"{self.who}: no desktop within {limit:g} s.", "Does the node hang?", fault="timeout", why=why)

    def _failure(self) -> RdpError:
        return failure(list(self._lines), self.who, str(self._pins))


@asynccontextmanager
async def desktop(
    address: str,
    login: Rdp,
    password: SecretStr,
    *,
    pins: Path,
    client: Client | None = None,
    limit: float = LOGIN_LIMIT,
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Desktop, None]:
    """Open a desktop session, hold it, and disconnect on leaving; RdpError where it does not begin.

    `pins` is a folder of ours in which FreeRDP keeps the certificates it has seen.
    """
    ours = os.environ if environment is None else environment
    client = client or find_client(ours)
    if client is None:
        words, advice = missing_words()
        raise RdpError(f"{address}: {words}", advice, fault="no client")
    options = ["/w:1024", "/h:768", "-clipboard", "/audio-mode:2"]
    async with connecting(client, address, login, password, options, pins=pins, environment=ours) as session:
        await session._begun(limit)
        yield session


@asynccontextmanager
async def connecting(
    client: Client,
    address: str,
    login: Rdp,
    password: SecretStr,
    options: Sequence[str],
    *,
    pins: Path,
    environment: Mapping[str, str],
) -> AsyncGenerator[Desktop, None]:
    """Run the client with more `options` of its own; it is ended on leaving, and what it says is in what is yielded."""
    if "\n" in password.get_secret_value():
        raise RdpError(f"{address}: the password for RDP has more than one line.", fault="password")
    await _answers(address, login.port)
    await asyncio.to_thread(pins.mkdir, parents=True, exist_ok=True, mode=0o700)
    session = Desktop(f"{login.user} on {address}:{login.port}", pins)
    keeper = LocalShell({**{name: environment[name] for name in _OURS if name in environment}, "HOME": str(pins)})
    async with keeper.pipe([sys.executable, "-I", "-S", str(_KEEPER)]) as duplex:
        order = _order(client, address, login, options, pins, environment)
        duplex.writer.write(json.dumps({**order, "password": password.get_secret_value()}).encode() + b"\n")
        following = asyncio.create_task(session._follow(duplex))
        try:
            await duplex.writer.drain()
            yield session
        finally:
            await _let_go(duplex, following)


def _order(
    client: Client, address: str, login: Rdp, options: Sequence[str], pins: Path, environment: Mapping[str, str]
) -> dict[str, object]:
    """What the keeper is to start, without the password; FreeRDP's home is the folder of the pins."""
    host = f"[{address}]" if ":" in address else address
    who = [f"/v:{host}:{login.port}", f"/u:{login.user}", "/from-stdin:force", "/cert:tofu"]
    passed = _OURS if client.screen else (*_OURS, *_DISPLAY)
    unbuffered = {  # its console log lies in a buffer until it ends, its file log does not
        "WLOG_APPENDER": "file",
        "WLOG_FILEAPPENDER_OUTPUT_FILE_PATH": "/dev",
        "WLOG_FILEAPPENDER_OUTPUT_FILE_NAME": "stderr",
    }
    return {
        "client": [client.program, *who, *options, f"/log-filters:{FILTERS}"],
        "screen": client.screen,
        "environment": {n: environment[n] for n in passed if n in environment} | unbuffered | {"HOME": str(pins)},
    }


async def _answers(address: str, port: int) -> None:
    """Whether the desktop service takes a connection; FreeRDP itself says of that only "broken pipe"."""
    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        raise RdpError(
            f"{address}:{port} does not answer within {CONNECT_LIMIT:g} s.",
            "Is the node asleep, or RDP closed by its firewall?",
            fault="timeout",
        ) from None
    except socket.gaierror as error:
        raise RdpError(f"{address} is not known: {error.strerror}.", "Correct its address.", fault="refused") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise RdpError(
            f"{address}:{port} takes no RDP connection: {why}.",
            "Is Remote Desktop switched on there, and the port right?",
            fault="refused",
        ) from None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _let_go(duplex: Duplex, following: asyncio.Task[None]) -> None:
    """Have the client disconnect, and wait until it and its display are gone; what then is left is killed."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_LIMIT):
            duplex.writer.write(b"end\n")
            await duplex.writer.drain()
            await following
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
