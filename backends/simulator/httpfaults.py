"""What an HTTP server can do wrong: each kind of fault as its client sees it."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

Kind = Literal[
    "refuse", "black_hole", "half_open", "tls_broken", "drip", "reset", "status", "not_json", "wrong_json",
    "huge", "redirect", "slow", "stop_in_mid_stream", "cut_stream", "garbage_stream", "error_in_200",
    "endless_stream",
]  # fmt: skip

STREAM_KINDS = frozenset({"stop_in_mid_stream", "cut_stream", "garbage_stream", "error_in_200", "endless_stream"})
"""Faults of answers to prompts; every other route answers as always."""

HUGE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class HttpFault:
    """A fault; `seconds` are real seconds (of "slow"; between two bytes of "drip"), `under` limits it to routes."""

    kind: Kind
    status: int = 500
    seconds: float = 1.0
    retry_after: int | None = None
    under: str = "/"


FAULT = web.RequestKey("fault", HttpFault)
"""Where a request carries the fault that its stream shall show."""


async def misbehave(fault: HttpFault, request: web.BaseRequest) -> web.StreamResponse | None:
    """The faulty answer, or None where the request goes on to the engine."""
    if not request.path.startswith(fault.under) or fault.kind in STREAM_KINDS:
        return None
    match fault.kind:
        case "slow":
            await asyncio.sleep(fault.seconds)
            return None
        case "black_hole" | "half_open":
            await asyncio.Event().wait()
        case "drip":
            await _drip(request, fault.seconds)
        case "reset":
            await _reset(request)
        case "huge":
            return await _huge(request)
        case "redirect":
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/elsewhere"})
        case "not_json":
            page = "<html><head><title>It works!</title></head><body><h1>It works!</h1></body></html>"
            return web.Response(text=page, content_type="text/html")
        case "wrong_json":
            return web.json_response(["something", {"else": 1}])
        case "status":
            return _status(fault)
    return None


def _status(fault: HttpFault) -> web.Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    message = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}
    error = {"error": {"message": message.get(fault.status, "Internal Server Error"), "code": fault.status}}
    return web.json_response(error, status=fault.status, headers=headers)


async def _drip(request: web.BaseRequest, seconds: float) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n" + b"{" * 100000
    for at in range(len(whole)):
        if request.transport is None:
            return
        request.transport.write(whole[at : at + 1])
        await asyncio.sleep(seconds)


async def _reset(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is None:
        return
    transport.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"data": [')
    await asyncio.sleep(0.01)
    reset(transport)


def reset(transport: asyncio.BaseTransport) -> None:
    """End a TCP connection with RST instead of FIN."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_INET and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()


async def _huge(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    piece = b'"' + b"x" * 65534 + b","
    await response.write(b"[")
    for _ in range(HUGE_BYTES // len(piece)):
        await response.write(piece)
    return response


class SilentProtocol(asyncio.Protocol):
    """Accepts and never answers; `live` knows its connections, so that their owner can end them."""

    def __init__(self, live: set[asyncio.Transport]) -> None:
        self.live = live

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be known."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.live.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Be forgotten."""
        self.live.discard(self.transport)


class GarbageProtocol(SilentProtocol):
    """Answers whatever comes, a TLS handshake above all, with bytes that mean nothing."""

    def data_received(self, data: bytes) -> None:
        """Answer and hang up."""
        self.transport.write(b"\x15\x00\xff\xff" + b"\x00\xfe garbage \xff" * 4)
        self.transport.close()
