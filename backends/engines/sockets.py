"""Plain HTTP by asyncio's sockets and llhttp: what most probes are, for half of what aiohttp takes.

Each request has a connection of its own, which is closed with the answer. TLS and forwards go by aiohttp (wire.py).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import aiohttp
from aiohappyeyeballs import AddrInfoType, start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from backends.engines.failures import Unconnected
from backends.engines.names import Names
from backends.engines.wire import Answer, Place, Request

HEAD_LIMIT: Final = 64 * 1024
"""Bytes that may come with nothing of a body among them: a head, or what follows the last chunk."""
PIECE: Final = 64 * 1024
"""Bytes read at once."""
HEAD_START: Final = 0.25
"""Seconds after which the next address of a name is tried beside the first (RFC 8305, section 5)."""


class SocketWire:
    """Asks `http` addresses, looking up their names with `names`, which belongs to the caller."""

    def __init__(self, names: Names) -> None:
        self._names = names

    @asynccontextmanager
    async def ask(self, request: Request) -> AsyncIterator[Answer]:
        """See Wire; names of headers are in lower case."""
        place = request.place
        sent = _written(request, place)
        with await self._connected(place, request.connect) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, sent)
            reading = _Reading(sock)
            try:
                await reading.head()
                async with aclosing(reading.chunks()) as chunks:
                    yield Answer(reading.status, reading.headers, chunks)
            finally:
                del reading.parser  # it knows the reading: a cycle, hundreds of times a second

    async def _connected(self, place: Place, seconds: float | None) -> socket.socket:
        """A socket that is connected to `place` within so many seconds; Unconnected where there is none to be had."""
        try:
            async with asyncio.timeout(seconds):
                if place.address is not None:
                    return await start_connection((place.address,))
                return await start_connection(await self._addresses(place), happy_eyeballs_delay=HEAD_START)
        except (OSError, UnicodeError) as error:
            raise Unconnected from error

    async def _addresses(self, place: Place) -> tuple[AddrInfoType, ...]:
        host, port = place.url.host or "", place.url.port or 80
        return tuple(
            (one["family"], socket.SOCK_STREAM, one["proto"], "", (one["host"], one["port"]))
            for one in await self._names.resolve(host, port, socket.AF_UNSPEC)
        )


def _written(request: Request, place: Place) -> bytes:
    """The request as it goes over the line; aiohttp.InvalidURL where a header would break out of its line."""
    length = {} if request.body is None else {"Content-Length": str(len(request.body))}
    headers = {"Host": place.url.host_port_subcomponent, **request.all_headers, "Connection": "close", **length}
    lines = [f"{request.method} {place.url.raw_path_qs} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    if any(sign in line for line in lines for sign in "\r\n\0"):
        raise aiohttp.InvalidURL(place.url, "a header would break out of its line")
    return "\r\n".join([*lines, "", ""]).encode() + (request.body or b"")


class _Reading:
    """One answer as it is parsed; the parser calls the methods that begin with `on_`.

    Hints (1xx) may come before it, and a server may say more after it: neither belongs to it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._sock = sock
        self.parser = HttpResponseParser(self)
        self._fields: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._bodiless = 0
        self._done = False

    async def head(self) -> None:
        """Read until the head is there."""
        while not self.status:
            await self._more()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes."""
        while True:
            parts, self._parts = self._parts, []
            for part in parts:
                yield part
            if self._done:
                return
            await self._more()

    async def _more(self) -> None:
        """Parse what comes next."""
        data = await asyncio.get_running_loop().sock_recv(self._sock, PIECE)
        if not data:
            self._end()
            return
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if not self._done:
                raise
        self._bodiless = 0 if self._parts else self._bodiless + len(data)
        if self._bodiless > HEAD_LIMIT and not self._done:
            raise HttpParserError(f"more than {HEAD_LIMIT // 1024} KiB that are no body")

    def _end(self) -> None:
        """The peer closed: that ends an answer whose length was never said, and breaks off every other."""
        if not self.status:
            raise aiohttp.ServerDisconnectedError
        if self.headers.keys() & {"content-length", "transfer-encoding"}:
            raise aiohttp.ClientPayloadError("not completed")
        self._done = True

    def on_message_begin(self) -> None:
        self._fields = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("latin-1").lower()] = value.decode("utf-8", "replace").strip()

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 200 and not self.status:
            self.status, self.headers = status, self._fields

    def on_body(self, part: bytes) -> None:
        if not self._done:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        self._done = self.status > 0
