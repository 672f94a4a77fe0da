"""Parts of a model's file, wherever it lies: a path of this machine, or an address of which ranges are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from backends.errors import ReachError

Read = Callable[[int, int], Awaitable[bytes]]

LIMIT = 20.0
"""Seconds that one part may take."""


@asynccontextmanager
async def opened(where: str) -> AsyncGenerator[Read, None]:
    """Reads of a path or an http(s) address; raises ReachError where nothing can be read."""
    if where.startswith(("http://", "https://")):
        async with _ranges(where) as read:
            yield read
        return
    async with _file(where) as read:
        yield read


@asynccontextmanager
async def _file(where: str) -> AsyncGenerator[Read, None]:
    def unread(error: OSError) -> ReachError:
        return ReachError(f"{where} cannot be read: {error.strerror or error}.")

    try:
        file = await asyncio.to_thread(Path(where).open, "rb")
    except OSError as error:
        raise unread(error) from None

    def part(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    async def read(offset: int, length: int) -> bytes:
        try:
            return await asyncio.to_thread(part, offset, length)
        except OSError as error:
            raise unread(error) from None

    try:
        yield read
    finally:
        file.close()


@asynccontextmanager
async def _ranges(url: str) -> AsyncGenerator[Read, None]:
    import httpx

    async with httpx.AsyncClient(timeout=LIMIT, follow_redirects=True, max_redirects=5) as client:

        async def read(offset: int, length: int) -> bytes:
            wanted = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
            try:
                async with asyncio.timeout(LIMIT), client.stream("GET", url, headers=wanted) as answer:
                    if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                        return b""
                    if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                        raise ReachError(f"{url} answers {answer.status_code} {answer.reason_phrase}.")
                    if answer.status_code == httpx.codes.OK and offset:
                        raise ReachError(f"{url} gives no ranges of the file, so its header cannot be read alone.")
                    return await _at_most(answer.aiter_raw(65536), length)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                raise ReachError(f"{url} cannot be read: {str(error) or type(error).__name__}.") from None

        yield read


async def _at_most(chunks: AsyncIterator[bytes], length: int) -> bytes:
    found = bytearray()
    async for chunk in chunks:
        found += chunk
        if len(found) >= length:
            break
    return bytes(found[:length])
