"""A line between a port and the server behind it, that can freeze, lag and break."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from backends.simulator.httpfaults import reset
from backends.simulator.ports import LOOPBACK


class Relay:
    """Carries bytes to `target`'s port; `lag` real seconds each way. Frozen, it carries nothing and tells nobody."""

    def __init__(self, target: Callable[[], int]) -> None:
        self.lag = 0.0
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._lines: dict[asyncio.Future[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    @property
    def listening(self) -> bool:
        """Whether it accepts."""
        return self._server is not None

    async def listen(self, sock: socket.socket) -> None:
        """Accept on this socket."""
        self._server = await asyncio.start_server(self._begin, sock=sock)

    def stop_listening(self) -> None:
        """Accept no more; lines that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def freeze(self) -> None:
        """Carry nothing any more, as a machine without power does; whoever is connected does not notice."""
        self._flowing.clear()

    async def thaw(self) -> None:
        """Carry again; lines that were frozen are reset, as a machine does that has forgotten them."""
        if not self._flowing.is_set():
            await self.drop()
            self._flowing.set()

    async def drop(self) -> None:
        """Reset all lines now."""
        lines, self._lines = self._lines, {}
        for task, writer in lines.items():
            reset(writer.transport)
            task.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._lines[task] = writer
        task.add_done_callback(lambda done: self._lines.pop(done, None))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))
            stack.callback(writer.close)
            await self._flowing.wait()
            inner_reader, inner_writer = await asyncio.open_connection(LOOPBACK, self._target())
            stack.callback(inner_writer.close)
            pumps = [
                asyncio.ensure_future(self._pump(reader, inner_writer)),
                asyncio.ensure_future(self._pump(inner_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.lag:
                    await asyncio.sleep(self.lag)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        await self._flowing.wait()
