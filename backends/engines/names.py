"""Host names looked up in threads of our own, so that a silent name server holds up neither the program nor its end.

The event loop's own pool has a handful of threads, which hung look-ups would fill for everybody, and which the
interpreter waits for when it ends; these are daemons, one for each name being looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

Lookup = Callable[[str, int, int], list[ResolveResult]]
_Key = tuple[str, int, int]

KNOWN_FOR: Final = 30.0
"""Seconds for which what was found is not looked up again."""


class Names(AbstractResolver):
    """Resolves names; those who ask for a name that is being looked up already wait for the same answer."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup or system_lookup
        self._running: dict[_Key, asyncio.Future[list[ResolveResult]]] = {}
        self._known: dict[_Key, tuple[float, list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`; socket.gaierror where there are none."""
        key = (host, port, int(family))
        found_at, known = self._known.get(key, (-KNOWN_FOR, []))
        if asyncio.get_running_loop().time() - found_at < KNOWN_FOR:
            return known
        if key not in self._running:
            self._start(key)
        return await asyncio.shield(self._running[key])

    async def close(self) -> None:
        """Forget what is still being looked up."""
        for future in self._running.values():
            future.cancel()
        self._running.clear()

    def _start(self, key: _Key) -> None:
        loop = asyncio.get_running_loop()
        future = self._running[key] = loop.create_future()

        def settle(answer: Any) -> None:
            self._running.pop(key, None)
            if future.cancelled():
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
                future.exception()  # nobody may be waiting any more
            else:
                self._known[key] = loop.time(), answer
                future.set_result(answer)

        def look_up() -> None:
            answer: list[ResolveResult] | Exception
            try:
                answer = self._lookup(*key)
            except (OSError, UnicodeError) as error:
                answer = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, answer)

        threading.Thread(target=look_up, name=f"look up {key[0]}", daemon=True).start()


def system_lookup(host: str, port: int, family: int) -> list[ResolveResult]:
    """What the system's resolver says, in its order."""
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    results: list[ResolveResult] = []
    for kind, _, proto, _, place in found:
        name = str(place[0])
        if kind == socket.AF_INET6 and len(place) > 3 and place[3]:
            name, _ = socket.getnameinfo(place, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        results.append(
            {
                "hostname": host,
                "host": name,
                "port": int(place[1]),
                "family": kind,
                "proto": proto,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
        )
    return results
