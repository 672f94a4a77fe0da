"""Local sockets that lead to a node: each connection to one is carried over SSH, or over a command's streams.

The local end stays the same when the way to the node breaks and is found anew, so nobody needs to be told.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from backends.errors import ReachError


class Reader(Protocol):
    """The end of a stream that is read."""

    async def read(self, n: int = -1, /) -> bytes:
        """At most `n` bytes; none at the end."""
        ...


class Writer(Protocol):
    """The end of a stream that is written."""

    def write(self, data: bytes, /) -> None:
        """Take `data` to be sent."""
        ...

    async def drain(self) -> None:
        """Wait while too much is unsent."""
        ...


class Duplex(NamedTuple):
    """A connection: what comes from the far side, and what goes there."""

    reader: Reader
    writer: Writer


Opener = Callable[[], AbstractAsyncContextManager[Duplex]]


class Bridge:
    """A local socket whose connections are carried to wherever `opener` leads.

    A local connection that cannot be carried is closed without a word, as sockets do; `failure` then says why.
    """

    def __init__(self, opener: Opener) -> None:
        self.failure: ReachError | None = None
        self._opener = opener
        self._server: asyncio.Server | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._carried: set[asyncio.Task[None]] = set()

    async def listen_unix(self) -> str:
        """Listen on a unix socket in a directory that only we may enter; its path."""
        self._folder = tempfile.TemporaryDirectory(prefix="tierdeck-")  # 0700 by mkdtemp's promise
        path = str(Path(self._folder.name) / "s")
        self._server = await asyncio.start_unix_server(self._accept, path)
        return path

    async def listen_tcp(self) -> int:
        """Listen on 127.0.0.1; the port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening, end what is carried, remove the socket."""
        if self._server:
            self._server.close()
        for task in self._carried:
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)
        if self._server:
            with suppress(TimeoutError):  # a client that does not read what it was sent may not hold us
                async with asyncio.timeout(1.0):
                    await self._server.wait_closed()
        if self._folder:
            self._folder.cleanup()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._opener() as far:
                await self._exchange(Duplex(reader, writer), far)
        except ReachError as error:
            self.failure = error
        finally:
            writer.close()

    async def _exchange(self, near: Duplex, far: Duplex) -> None:
        """Copy both ways until either side ends; HTTP never closes only half of a connection."""
        tasks = {
            asyncio.create_task(self._copy(near.reader, far.writer, from_far=False)),
            asyncio.create_task(self._copy(far.reader, near.writer, from_far=True)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy(self, reader: Reader, writer: Writer, *, from_far: bool) -> None:
        with suppress(ConnectionError):  # the local side went away, which ends this connection and nothing else
            while chunk := await reader.read(65_536):
                if from_far:
                    self.failure = None
                writer.write(chunk)
                await writer.drain()
