"""httpx, which carries the answers that come piece by piece; imported when the first of them is asked for."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from backends.engines.wire import Answer, Request


class HttpxWire:
    """httpx over a session of aiohttp that belongs to the caller, and so with its resolver and certificates."""

    def __init__(self, session: aiohttp.ClientSession, tls: ssl.SSLContext) -> None:
        self._transport = AiohttpTransport(verify=tls, trust_env=False, client=session)

    @asynccontextmanager
    async def ask(self, request: Request) -> AsyncIterator[Answer]:
        """See Wire."""
        place = request.place
        with _failures():
            sent = httpx.Request(
                request.method,
                str(place.url),
                headers=request.all_headers,
                content=request.body,
                extensions={"timeout": {"connect": request.connect}, "sni_hostname": place.name},
            )
            response = await self._transport.handle_async_request(sent)
        try:
            async with aclosing(_chunks(response)) as chunks:
                yield Answer(response.status_code, response.headers, chunks)
        finally:
            await response.aclose()


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes; the transport makes it an async generator, which is closed with this one."""
    parts = cast(AsyncGenerator[bytes, None], aiter(cast(httpx.AsyncByteStream, response.stream)))
    with _failures():
        async with aclosing(parts):
            async for part in parts:
                yield part


@contextmanager
def _failures() -> Iterator[None]:
    """What httpx raises, raised as what failures.py knows; it is named by what aiohttp raised beneath."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise aiohttp.InvalidURL(str(error)) from error
    except httpx.HTTPError as error:
        raise aiohttp.ClientError(str(error)) from error
