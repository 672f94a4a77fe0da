"""Whether a port answers, which says more than any ping: a closed port of a living machine refuses at once."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import dataclass
from typing import Final, Literal

KNOCK_LIMIT: Final = 3.0
"""Seconds for a connection; on a home's network one takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a connection: `kind` is open, refused (somebody is there), silent or no_route, in `words`."""

    kind: Literal["open", "refused", "silent", "no_route"]
    words: str

    @property
    def alive(self) -> bool:
        """Whether a machine answered at all."""
        return self.kind in ("open", "refused")


async def knock(host: str, port: int, timeout: float = KNOCK_LIMIT) -> Answer:
    """Connect to a port and let go of it at once; nothing is sent."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Answer("silent", f"{place} did not answer within {timeout:g} s")
    except ConnectionRefusedError:
        return Answer("refused", f"{place} refuses connections")
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else str(error)
        away = error.errno in (errno.ENETUNREACH, errno.ENETDOWN)
        return Answer("no_route" if away else "silent", f"{place}: {words}")
    writer.close()
    return Answer("open", f"{place} answers")


async def resolves(host: str, timeout: float = KNOCK_LIMIT) -> str:
    """Why a name has no address, or ""."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"no name server told the address of {host} within {timeout:g} s"
    except OSError as error:
        return f"{host} is not found ({error.strerror})"
    return ""


def route(address: str) -> str:
    """Why this machine has no way to an address at all, or ""; nothing is sent, the kernel alone is asked."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError as error:
            return f"no way to {address}: {error.strerror}" if error.errno in _NO_WAY else ""
    return ""


_NO_WAY: Final = (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)
