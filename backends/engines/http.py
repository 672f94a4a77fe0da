"""The one way HTTP goes out: bounded in time and size, without redirects, cookies, proxies or retries of its own.

httpx's request and answer types over the httpx-aiohttp transport, driven directly: the client above it would only add
what is not wanted here, and a third of the CPU of a probe.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Self, cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from backends.cluster.words import Cause
from backends.engines.failures import FAILURES, named
from backends.engines.names import Lookup, Names
from backends.engines.target import MIB, HttpAnswer, ProbeFailure, Via, address

KEEP_ALIVE: Final = 1.0
"""Seconds for which a connection serves the next request of the same probe; the next probe connects anew, and so
proves that the endpoint still accepts."""

_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "tierdeck"}


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
        self._direct: httpx.AsyncBaseTransport | None = None
        self._sockets: dict[str, httpx.AsyncBaseTransport] = {}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._tls, resolver=self._names, ttl_dns_cache=30, keepalive_timeout=KEEP_ALIVE
        )
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        self._direct = AiohttpTransport(verify=self._tls, trust_env=False, client=self._session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sockets, self._sockets = self._sockets, {}
        for transport in sockets.values():
            await transport.aclose()
        if self._session is not None:
            await self._session.close()
            await self._names.close()
            self._session = self._direct = None

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
        return await self._whole("GET", url, headers, None, timeout, limit, via)

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
        return await self._whole("POST", url, headers, body, timeout, limit, via)

    async def delete(
        self, url: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None, via: Via = None
    ) -> HttpAnswer:
        """The whole answer to a DELETE with JSON, within `timeout` seconds."""
        return await self._whole("DELETE", url, headers, body, timeout, MIB, via)

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
        try:
            async with asyncio.timeout(timeout) as scope:
                response = await self._send("GET" if body is None else "POST", url, headers, body, via, connect)
        except FAILURES as error:
            raise _failure(error, url, via, scope, timeout) from error
        try:
            async with aclosing(_chunks(response, url, via)) as chunks:
                yield HttpStream(response.status_code, response.headers, chunks)
        finally:
            await response.aclose()

    async def _whole(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        timeout: float,
        limit: int,
        via: Via,
    ) -> HttpAnswer:
        await self._trust(url)
        began, response, parts, size = perf_counter(), None, [], 0
        try:
            async with asyncio.timeout(timeout) as scope:
                response = await self._send(method, url, headers, body, via)
                async with _body(response) as body_parts:
                    async for part in body_parts:
                        size += len(part)
                        if size > limit:
                            words = f"{address(url)} answers more than {limit / MIB:.3g} MiB"
                            raise ProbeFailure(Cause.BAD_RESPONSE, words, status=response.status_code)
                        parts.append(part)
        except FAILURES as error:
            raise _failure(error, url, via, scope, timeout, response is not None, size) from error
        finally:
            if response is not None:
                await response.aclose()
        return HttpAnswer(response.status_code, response.headers, b"".join(parts), perf_counter() - began)

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        via: Via,
        connect: float | None = None,
    ) -> httpx.Response:
        if self._direct is None:
            raise RuntimeError("Http is used outside its context")
        transport = self._transport(via) if isinstance(via, str) else self._direct
        request = _request(method, url, headers, body, via, connect)
        response = await transport.handle_async_request(request)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            await response.aclose()
            raise ProbeFailure(
                Cause.BAD_RESPONSE,
                f"{address(url)} answers in {encoding}, though asked not to",
                status=response.status_code,
            )
        return response

    def _transport(self, path: str) -> httpx.AsyncBaseTransport:
        if path not in self._sockets:
            limits = httpx.Limits(keepalive_expiry=KEEP_ALIVE)
            self._sockets[path] = httpx.AsyncHTTPTransport(uds=path, verify=self._tls, trust_env=False, limits=limits)
        return self._sockets[path]

    async def _trust(self, url: str) -> None:
        """Load the system's certificates once, when the first TLS address is asked: 35 ms, in a thread, and on nobody's
        time limit."""
        if self._trusts or not url.startswith("https"):
            return
        async with self._trusting:
            if not self._trusts:
                await asyncio.to_thread(_load_certificates, self._tls)
                self._trusts = True


def _request(
    method: str,
    url: str,
    headers: Mapping[str, str] | None,
    body: bytes | None,
    via: Via,
    connect: float | None,
) -> httpx.Request:
    given = {**_HEADERS, **headers} if headers else dict(_HEADERS)
    if body is not None:
        given["Content-Type"] = "application/json"
    extensions: dict[str, Any] = {"timeout": {"connect": connect}} if connect is not None else {}
    there = _parsed(url)
    if isinstance(via, tuple):
        given["Host"] = there.netloc.decode("ascii")
        extensions["sni_hostname"] = there.host
        there = there.copy_with(host=via[0], port=via[1])
    return httpx.Request(method, there, headers=given, content=body, extensions=extensions)


@lru_cache(maxsize=4096)
def _parsed(url: str) -> httpx.URL:
    """The same few addresses are asked for ever: each is parsed once."""
    return httpx.URL(url)


def _failure(
    error: BaseException,
    url: str,
    via: Via,
    scope: asyncio.Timeout,
    timeout: float,
    answering: bool = False,
    came: int = 0,
) -> ProbeFailure:
    where = address(url)
    if isinstance(error, TimeoutError) and scope.expired():
        words = f"answer of {where} not complete within {timeout:.3g} s ({came} bytes came)"
        return ProbeFailure(Cause.TIMEOUT, words if answering else f"no answer from {where} within {timeout:.3g} s")
    return named(error, where, tls=url.startswith("https"), through=via is not None, answering=answering)


def _body(response: httpx.Response) -> aclosing[AsyncGenerator[bytes, None]]:
    """The body as it comes; both transports make it an async generator, which is closed with the context."""
    return aclosing(cast(AsyncGenerator[bytes, None], aiter(cast(httpx.AsyncByteStream, response.stream))))


async def _chunks(response: httpx.Response, url: str, via: Via) -> AsyncGenerator[bytes, None]:
    try:
        async with _body(response) as parts:
            async for part in parts:
                yield part
    except FAILURES as error:
        where, tls = address(url), url.startswith("https")
        raise named(error, where, tls=tls, through=via is not None, answering=True) from error


def _load_certificates(context: ssl.SSLContext) -> None:
    context.load_default_certs()
    if not context.cert_store_stats()["x509_ca"]:
        import certifi

        context.load_verify_locations(certifi.where())
