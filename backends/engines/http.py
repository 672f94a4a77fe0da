"""The one way HTTP goes out: bounded in time and size, every failure named, the system's certificates loaded once.

Whole answers come from plain addresses by sockets, by TLS and through forwards by aiohttp, streams by httpx (see
wire.py): all of them by one resolver.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Final, Self

import aiohttp

from backends.cluster.words import Cause
from backends.engines.failures import FAILURES, named
from backends.engines.names import Lookup, Names
from backends.engines.sockets import SocketWire
from backends.engines.target import MIB, HttpAnswer, ProbeFailure, Via, address
from backends.engines.wire import AiohttpWire, Answer, Request, Wire

KEEP_ALIVE: Final = 1.0
"""Seconds for which a connection by TLS or a forward serves the next request of the same probe; the next probe connects
anew, and so proves that the endpoint still accepts."""


@dataclass(frozen=True, slots=True)
class HttpStream:
    """An answer whose body is still coming; the connection is closed when its context is left."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Http:
    """Sends requests; one for the whole program, entered as an async context and closed with it.

    `tls` and `lookup` stand in for the system's certificates and resolver. Every call raises ProbeFailure with a named
    cause and nothing else, but for ReachError when this machine has no file descriptors left.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, lookup: Lookup | None = None) -> None:
        self._tls = tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trusts = tls is not None
        self._trusting = asyncio.Lock()
        self._names = Names(lookup)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._tls, resolver=self._names, use_dns_cache=False, keepalive_timeout=KEEP_ALIVE
        )
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await self._names.close()

    async def get(
        self,
        url: str,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        limit: int = MIB,
        via: Via = None,
    ) -> HttpAnswer:
        """The whole answer to a GET, within `timeout` seconds and `limit` bytes."""
        return await self._whole(Request("GET", url, headers or {}, via=via), timeout, limit)

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        limit: int = MIB,
        via: Via = None,
    ) -> HttpAnswer:
        """The whole answer to a POST of JSON, within `timeout` seconds and `limit` bytes."""
        return await self._whole(Request("POST", url, headers or {}, body, via), timeout, limit)

    async def delete(
        self, url: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None, via: Via = None
    ) -> HttpAnswer:
        """The whole answer to a DELETE with JSON, within `timeout` seconds."""
        return await self._whole(Request("DELETE", url, headers or {}, body, via), timeout, MIB)

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        body: bytes | None,
        *,
        connect: float,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        via: Via = None,
    ) -> AsyncIterator[HttpStream]:
        """The answer to a POST of JSON, or to a GET where there is no body, as it comes.

        It may take `connect` seconds to connect and `timeout` until it begins. How long its chunks may take, and how
        many there may be, is the caller's to bound.
        """
        await self._trust(url)
        wire = await asyncio.to_thread(_streaming, self._open, self._tls)
        request = Request("GET" if body is None else "POST", url, headers or {}, body, via, connect)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(timeout) as scope:
                    answer = await stack.enter_async_context(wire.ask(request))
            except FAILURES as error:
                raise _failure(error, request, scope, timeout) from error
            _check(answer, request)
            chunks = await stack.enter_async_context(aclosing(_chunks(answer, request)))
            yield HttpStream(answer.status, answer.headers, chunks)

    async def _whole(self, request: Request, timeout: float, limit: int) -> HttpAnswer:
        await self._trust(request.url)
        began, answer, parts, size = perf_counter(), None, [], 0
        try:
            async with asyncio.timeout(timeout) as scope, self._wire(request).ask(request) as answer:
                _check(answer, request)
                async for part in answer.chunks:
                    size += len(part)
                    if size > limit:
                        words = f"{address(request.url)} answers more than {limit / MIB:.3g} MiB"
                        raise ProbeFailure(Cause.BAD_RESPONSE, words, status=answer.status)
                    parts.append(part)
        except FAILURES as error:
            raise _failure(error, request, scope, timeout, answer is not None, size) from error
        return HttpAnswer(answer.status, answer.headers, b"".join(parts), perf_counter() - began)

    def _wire(self, request: Request) -> Wire:
        """What carries a whole answer; through a forward a connection is dear, and one serves a whole probe."""
        session = self._open
        if request.via is None and request.place.url.scheme == "http":
            return SocketWire(self._names)
        return AiohttpWire(session)

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Http is used outside its context")
        return self._session

    async def _trust(self, url: str) -> None:
        """Load the system's certificates once, when the first TLS address is asked: 35 ms, in a thread, and on nobody's
        time limit."""
        if self._trusts or not url.startswith("https"):
            return
        async with self._trusting:
            if not self._trusts:
                await asyncio.to_thread(_load_certificates, self._tls)
                self._trusts = True


def _streaming(session: aiohttp.ClientSession, tls: ssl.SSLContext) -> Wire:
    """What carries streams; blocks while httpx is imported."""
    from backends.engines.streams import HttpxWire

    return HttpxWire(session, tls)


def _check(answer: Answer, request: Request) -> None:
    """ProbeFailure where the body comes compressed."""
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        words = f"{address(request.url)} answers in {encoding}, though asked not to"
        raise ProbeFailure(Cause.BAD_RESPONSE, words, status=answer.status)


async def _chunks(answer: Answer, request: Request) -> AsyncGenerator[bytes, None]:
    try:
        async for part in answer.chunks:
            yield part
    except FAILURES as error:
        raise _named(error, request, answering=True) from error


def _failure(
    error: BaseException,
    request: Request,
    scope: asyncio.Timeout,
    timeout: float,
    answering: bool = False,
    came: int = 0,
) -> ProbeFailure:
    if isinstance(error, TimeoutError) and scope.expired():
        where = address(request.url)
        words = f"answer of {where} not complete within {timeout:.3g} s ({came} bytes came)"
        return ProbeFailure(Cause.TIMEOUT, words if answering else f"no answer from {where} within {timeout:.3g} s")
    return _named(error, request, answering=answering)


def _named(error: BaseException, request: Request, *, answering: bool) -> ProbeFailure:
    where, tls = address(request.url), request.url.startswith("https")
    return named(error, where, tls=tls, through=request.via is not None, answering=answering)


def _load_certificates(context: ssl.SSLContext) -> None:
    context.load_default_certs()
    if not context.cert_store_stats()["x509_ca"]:
        import certifi

        context.load_verify_locations(certifi.where())
