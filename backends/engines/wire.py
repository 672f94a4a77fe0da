"""How a request reaches an endpoint: a protocol, and aiohttp, which fulfils it where TLS or a forward is on the way.

aiohttp is asked itself, since whatever stands above it is a fifth to a third of the CPU of a request. Plain addresses
are asked by what stands below it (sockets.py), streams by httpx (streams.py).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Protocol

import aiohttp
from aiohappyeyeballs import AddrInfoType
from yarl import URL

from backends.engines.target import Via

Method = Literal["GET", "POST", "DELETE"]
HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "tierdeck"}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked; a body is JSON. It may take `connect` seconds to connect."""

    method: Method
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    via: Via = None
    connect: float | None = None

    @property
    def place(self) -> Place:
        """Where to connect, and as whom to address what is there."""
        return _place(self.url, self.via)

    @property
    def all_headers(self) -> dict[str, str]:
        """Every header that goes out, but for those about length and connection."""
        kind = {} if self.body is None else {"Content-Type": "application/json"}
        return {**HEADERS, **self.headers, **kind, **self.place.host}


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect: the `address`, where its host is one and not a name.

    The `host` header and the `name` for TLS are given where they are not those of `url`.
    """

    url: URL
    host: Mapping[str, str]
    name: str | None
    address: AddrInfoType | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer, with headers that are asked for in lower case, and its body as it comes."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Wire(Protocol):
    """Sends a request as it is: without redirects, cookies, proxies, decoding or retries of its own."""

    def ask(self, request: Request) -> AbstractAsyncContextManager[Answer]:
        """The answer; what has not been read of it when the context is left is given up, with its connection.

        What fails is raised as FAILURES, or is their cause (see failures.py).
        """
        ...


class AiohttpWire:
    """aiohttp itself, over a session that belongs to the caller."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @asynccontextmanager
    async def ask(self, request: Request) -> AsyncIterator[Answer]:
        """See Wire."""
        place = request.place
        async with self._session.request(
            request.method,
            place.url,
            headers=request.all_headers,
            data=request.body,
            allow_redirects=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(sock_connect=request.connect),
            server_hostname=place.name,
        ) as response:
            yield Answer(response.status, response.headers, response.content.iter_any())


@lru_cache(maxsize=4096)
def _place(url: str, via: Via) -> Place:
    """The same few addresses are asked for ever: each is parsed once."""
    try:
        there = URL(url)
    except ValueError as error:
        raise aiohttp.InvalidURL(url) from error
    host = there.host_port_subcomponent
    if host is None or not url.isprintable():
        raise aiohttp.InvalidURL(url)
    if via is None:
        return Place(there, {}, None, _address(there))
    round_about = there.with_host(via[0]).with_port(via[1])
    return Place(round_about, {"Host": host}, there.raw_host, _address(round_about))


def _address(there: URL) -> AddrInfoType | None:
    """What its host already is; None where it has to be looked up, as a name or for its zone."""
    host = there.host or ""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        if host.replace(".", "").isdecimal():  # the system would take 127.1 for 127.0.0.1
            raise aiohttp.InvalidURL(there) from None
        return None
    if "%" in host:
        return None
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, there.port or 80)
