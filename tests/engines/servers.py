"""Raw servers on loopback: canned answers, recorded ones, and every way in which a peer can misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Seen:
    """A request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """An answer to give."""

    status: int = 200
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def wire(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else self.body.encode()
        lines = [f"HTTP/1.1 {self.status} Said", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items() if name.lower() != "content-length"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_reply(value: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(value), {"Content-Type": "application/json", **headers})


@asynccontextmanager
async def listening(
    handle: Handler, *, tls: ssl.SSLContext | None = None, path: str | None = None
) -> AsyncIterator[int]:
    """Serve each connection with `handle` until left; the port (0 on a unix socket at `path`)."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    if path is not None:
        server = await asyncio.start_unix_server(connected, path)
    else:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield 0 if path is not None else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(method, path, headers, body)


class Canned:
    """Answers by path (or "POST path"); what is not named gets `other`. Remembers what it was asked."""

    def __init__(self, replies: Mapping[str, Reply | list[Reply]], other: Reply | None = None) -> None:
        self.replies = {k: list(v) if isinstance(v, list) else v for k, v in replies.items()}
        self.other = other or json_reply({"detail": "Not Found"}, 404)
        self.seen: list[Seen] = []

    @property
    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def reply(self, seen: Seen) -> Reply:
        key = f"{seen.method} {seen.path}" if f"{seen.method} {seen.path}" in self.replies else seen.path
        found = self.replies.get(key, self.other)
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen = await read_request(reader)
            self.seen.append(seen)
            writer.write(self.reply(seen).wire)
            await writer.drain()


def recorded(name: str, *, skip: int = 0, **changes: Reply) -> dict[str, Reply | list[Reply]]:
    """What a real server answered, by path; POST answers are left out. `skip` leaves out the first of each path."""
    replies: dict[str, Reply | list[Reply]] = {}
    for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("request", "").startswith("GET "):
            route = row["request"].removeprefix("GET ")
            known = replies.setdefault(route, [])
            assert isinstance(known, list)
            known.append(Reply(row["status"], row["answer"], row["headers"]))
    return {route: known[skip:] or known for route, known in replies.items() if isinstance(known, list)}


def recorded_posts(name: str) -> list[tuple[dict[str, object], Reply]]:
    """What a real server answered to prompts: (body, answer)."""
    rows = [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]
    posts = [row for row in rows if row.get("request", "").startswith("POST ")]
    return [(row["body"], Reply(row["status"], row["answer"], row["headers"])) for row in posts]


# Faults: each a handler of one connection.


async def black_hole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, and never say anything."""
    await asyncio.Event().wait()


async def half_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin an answer, and fall silent."""
    await read_request(reader)
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"sta')
    await asyncio.Event().wait()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time, for ever: never silent for long, and never done."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"{")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never come to the end of the headers."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        writer.write(f"X-{number}: 1\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.05)


def reset_now(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset the connection in mid-answer."""
    await read_request(reader)
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"sta')
    await writer.drain()
    await asyncio.sleep(0.02)
    reset_now(writer)


async def reset_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset the connection instead of answering."""
    await read_request(reader)
    reset_now(writer)


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection instead of answering."""
    await read_request(reader)


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close in mid-answer."""
    await read_request(reader)
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"sta')


async def cut_chunked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close in mid-answer, where its length was never said."""
    await read_request(reader)
    writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"sta\r\n')


async def bad_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send what are no chunks."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense\r\n")
    await asyncio.Event().wait()


async def no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak another protocol, as an SSH server does."""
    writer.write(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    await asyncio.Event().wait()


async def long_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a header of a megabyte."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 2**20 + b"\r\n\r\n")
    await asyncio.Event().wait()


class Huge:
    """Answers a gigabyte, in one length or in chunks; `sent` tells how much was taken."""

    def __init__(self, *, chunked: bool) -> None:
        self.chunked = chunked
        self.sent = 0
        self.ended = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        head = b"Transfer-Encoding: chunked" if self.chunked else b"Content-Length: 1073741824"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head + b"\r\n\r\n")
        part = b"[" * 65536
        try:
            while self.sent < 2**30:
                writer.write(b"10000\r\n" + part + b"\r\n" if self.chunked else part)
                self.sent += len(part)
                await writer.drain()
        finally:
            self.ended.set()


def free_port() -> int:
    """A port of loopback at which nobody listens."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def eventually(condition: Callable[[], bool], seconds: float = 2) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(seconds):
        for _ in iter(condition, True):
            await asyncio.sleep(0.005)
