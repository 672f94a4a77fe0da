"""One HTTP address of the cluster, a TCP port or a unix socket, that serves, refuses or misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from backends.simulator.httpfaults import FAULT, GarbageProtocol, HttpFault, SilentProtocol, misbehave, reset
from backends.simulator.ports import LOOPBACK, Port

Fence = Literal["refuse", "black_hole"]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """Listens only between `open` and `close`; a fault lies over it until healed. Use as an async context.

    Its port is `number`, or one that the system chooses. With a `fence` its port answers so to everybody, and only its
    node, asked through SSH, reaches `inner_port`.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        path: Path | None = None,
        name: str = "",
        fence: Fence | None = None,
        number: int = 0,
    ) -> None:
        self._number = number
        self.path = path
        self.name = name
        self.fault: HttpFault | None = None
        self.connections = 0
        """Connections accepted so far."""
        self._handler = handler
        self._open = False
        self._fence = fence
        self._outside: Port | None = None
        self._port: Port | None = None
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._state = ""
        self._lock = asyncio.Lock()
        self._silent: set[asyncio.Transport] = set()

    async def __aenter__(self) -> HttpServer:
        if self.path is None:
            self._port = Port(self._number)
        if self._fence is not None:
            self._outside = Port()
            if self._fence == "black_hole":
                self._outside.swallow()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False
        self.fault = None
        await self._settle()
        for port in (self._port, self._outside):
            if port is not None:
                port.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    @property
    def port(self) -> int:
        """The TCP port that others see."""
        return self._outside.number if self._outside is not None else self.inner_port

    @property
    def inner_port(self) -> int:
        """The TCP port that it listens on."""
        assert self._port is not None
        return self._port.number

    @property
    def url(self) -> str:
        """The address for an inventory."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def is_open(self) -> bool:
        """Whether whoever serves here means to listen."""
        return self._open

    async def open(self) -> None:
        """Listen."""
        self._open = True
        await self._settle()

    async def close(self) -> None:
        """Refuse from now on and drop who is connected, as the kernel does when a process ends."""
        self._open = False
        await self._settle()

    def drop(self) -> None:
        """Reset whoever is connected, and go on."""
        for connection in self._web.connections if self._web else ():
            if connection.transport is not None:
                reset(connection.transport)

    async def inflict(self, fault: HttpFault) -> None:
        """Lay a fault over this address."""
        self.fault = fault
        await self._settle()

    async def heal(self) -> None:
        """Take the fault away."""
        self.fault = None
        await self._settle()

    def _wanted(self) -> str:
        kind = self.fault.kind if self.fault else ""
        if kind == "black_hole":
            return "swallow"
        if not self._open or kind == "refuse":
            return "refuse"
        return kind if kind in ("half_open", "tls_broken") else "serve"

    async def _settle(self) -> None:
        async with self._lock:
            wanted = self._wanted()
            if wanted == self._state:
                return
            self._state = wanted
            await self._stop(keep=wanted in ("swallow", "half_open"))
            if wanted == "refuse":
                return
            if wanted == "swallow" and self._port is not None:
                self._port.swallow()
                return
            self._listener = await self._listen(wanted)

    async def _stop(self, *, keep: bool) -> None:
        """Stop listening; the connections go too, unless they are kept to hang."""
        if self._port is not None:
            self._port.refuse()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for transport in tuple(self._silent):
            transport.abort()
        if self._web is not None and not keep:
            for connection in self._web.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await self._web.shutdown(0)
            self._web = None

    async def _listen(self, wanted: str) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if self._port is not None:
            sock = self._port.listen()
        else:
            assert self.path is not None
            self.path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.bind(os.fspath(self.path))
            sock.listen(128)
        return await loop.create_server(self._factory(wanted), sock=sock)

    def _factory(self, wanted: str) -> Callable[[], asyncio.Protocol]:
        if wanted == "serve":
            if self._web is None:
                self._web = web.Server(
                    self._handle, request_factory=_request, handler_cancellation=True, access_log=None
                )
            serve = self._web

            def serving() -> asyncio.Protocol:
                self.connections += 1
                return serve()

            return serving
        mute = GarbageProtocol if wanted == "tls_broken" else SilentProtocol
        return lambda: mute(self._silent)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = self.fault
        if fault is not None:
            answer = await misbehave(fault, request)
            if answer is not None:
                return answer
            if request.path.startswith(fault.under):
                request[FAULT] = fault
        with contextlib.suppress(ConnectionResetError):
            return await self._handler(request)
        return web.Response(status=499)


class _Request(web.BaseRequest):
    """Lets an engine name itself in the Server header, or nothing, instead of the library."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        server = response.headers.get("Server", "")
        if "aiohttp" in server:
            del response.headers["Server"]


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    return _Request(message, payload, protocol, writer, task, asyncio.get_running_loop())
