"""Plain HTTP by sockets: every shape an answer may have, in pieces of every size, and what is no answer."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable, Sequence

import aiohttp
import pytest
from aiohttp.abc import ResolveResult
from httptools import HttpParserError, HttpParserUpgrade

from backends.engines.failures import Unconnected
from backends.engines.names import KNOWN_FOR, Names
from backends.engines.sockets import HEAD_LIMIT, SocketWire
from backends.engines.wire import Request
from tests.engines import servers
from tests.engines.servers import Canned, Handler, Reply, free_port, listening


def saying(*parts: bytes) -> Handler:
    """A server that says this, piece by piece, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await servers.read_request(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return handle


async def answer(
    handler: Handler, host: str = "127.0.0.1", names: Names | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what a server says."""
    async with (
        listening(handler) as port,
        SocketWire(names or Names()).ask(Request("GET", f"http://{host}:{port}/", {})) as found,
    ):
        return found.status, dict(found.headers), b"".join([part async for part in found.chunks])


ANSWERS: Sequence[tuple[bytes, tuple[int, dict[str, str], bytes]]] = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, {"content-length": "2"}, b"ok")),
    (b"HTTP/1.1 204 No Content\r\nX-Two: a b \r\n\r\n", (204, {"x-two": "a b"}, b"")),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
        (200, {"transfer-encoding": "chunked"}, b"abc"),
    ),
    (b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil it closes", (200, {"server": "x"}, b"until it closes")),
    (
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\n!",
        (503, {"content-length": "1"}, b"!"),
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + b"HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\n!",
        (200, {"content-length": "2"}, b"ok"),
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nokand more",
        (200, {"content-length": "2", "connection": "close"}, b"ok"),
    ),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Name: caf\xe9\r\n\r\n",
        (200, {"content-length": "0", "x-name": "caf\ufffd"}, b""),
    ),
]


@pytest.mark.parametrize(("said", "found"), ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_an_answer_in_pieces(said: bytes, found: tuple[int, dict[str, str], bytes], size: int) -> None:
    assert await answer(saying(*(said[at : at + size] for at in range(0, len(said), size)))) == found


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", aiohttp.ServerDisconnectedError),
        (b"HTTP/1.1 200 OK\r\nContent-Le", aiohttp.ServerDisconnectedError),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", aiohttp.ServerDisconnectedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", aiohttp.ClientPayloadError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", aiohttp.ClientPayloadError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", HttpParserError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", HttpParserError),
        (b"220 mail.example ESMTP\r\n", HttpParserError),
        (b"\x15\x03\x01\x00\x02\x02\x16", HttpParserError),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", HttpParserUpgrade),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * HEAD_LIMIT, HttpParserError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * HEAD_LIMIT, HttpParserError),
        (b"HTTP/1.1 103 Hints\r\n\r\n" * HEAD_LIMIT, HttpParserError),
    ],
)
async def test_what_is_no_answer(said: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await answer(saying(said))


async def test_a_header_stays_in_its_line() -> None:
    server = Canned({})
    async with listening(server) as port:
        request = Request("GET", f"http://127.0.0.1:{port}/", {"Authorization": "Bearer k\r\nX-Other: 1"})
        with pytest.raises(aiohttp.InvalidURL):
            async with SocketWire(Names()).ask(request):
                pass
    assert not server.seen


async def test_an_answer_leaves_no_cycle_behind() -> None:
    wire, server = SocketWire(Names()), Canned({"/": Reply(200, "ok")})
    async with listening(server) as port:
        gc.collect()
        gc.disable()
        try:
            async with wire.ask(Request("GET", f"http://127.0.0.1:{port}/", {})) as found:
                assert b"".join([part async for part in found.chunks]) == b"ok"
            del found
            left = [each for each in gc.get_objects() if type(each).__name__ in ("_Reading", "HttpResponseParser")]
        finally:
            gc.enable()
    assert not left


class TestNames:
    @staticmethod
    def telling(*hosts: str) -> tuple[Callable[[str, int, int], list[ResolveResult]], list[str]]:
        """A resolver that knows these addresses for every name, and what it was asked."""
        asked: list[str] = []

        def lookup(host: str, port: int, family: int) -> list[ResolveResult]:
            asked.append(host)
            return [
                {
                    "hostname": host,
                    "host": at,
                    "port": port,
                    "family": socket.AF_INET6 if ":" in at else socket.AF_INET,
                    "proto": 0,
                    "flags": 0,
                }
                for at in hosts
            ]

        return lookup, asked

    async def test_the_address_that_answers_is_asked(self) -> None:
        lookup, _ = self.telling("::1", "127.0.0.1")
        server = Canned({"/": Reply(200, "ok")})
        assert (await answer(server, "mark.example", Names(lookup)))[2] == b"ok"
        assert server.seen[0].headers["host"].startswith("mark.example:")

    async def test_nobody_is_there(self) -> None:
        lookup, _ = self.telling("127.0.0.1")
        with pytest.raises(Unconnected) as caught:
            async with SocketWire(Names(lookup)).ask(Request("GET", f"http://mark.example:{free_port()}/", {})):
                pass
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)

    async def test_what_was_found_is_known_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lookup, asked = self.telling("127.0.0.1")
        names, loop = Names(lookup), asyncio.get_running_loop()
        for _ in range(3):
            assert (await names.resolve("mark.example", 80))[0]["host"] == "127.0.0.1"
        assert asked == ["mark.example"]
        later = loop.time() + KNOWN_FOR + 1
        monkeypatch.setattr(loop, "time", lambda: later)
        await names.resolve("mark.example", 80)
        assert asked == ["mark.example"] * 2
