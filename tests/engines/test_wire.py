"""What carries a request: sockets, aiohttp and httpx ask the same, give back the same, and fail for the same causes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from backends.cluster.words import Cause
from backends.engines.failures import FAILURES, named
from backends.engines.names import Names
from backends.engines.sockets import SocketWire
from backends.engines.streams import HttpxWire
from backends.engines.wire import AiohttpWire, Request, Wire
from tests.engines import servers
from tests.engines.servers import Canned, Handler, Huge, Reply, free_port, listening


@asynccontextmanager
async def opened(kind: str) -> AsyncIterator[Wire]:
    """A wire of that kind."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connector, no_cookies = aiohttp.TCPConnector(ssl=tls), aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=no_cookies) as session:
        wires = {"sockets": SocketWire(Names()), "aiohttp": AiohttpWire(session), "httpx": HttpxWire(session, tls)}
        yield wires[kind]


@pytest.fixture(params=["sockets", "aiohttp", "httpx"])
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    async with opened(request.param) as wire:
        yield wire


@pytest.fixture(params=["aiohttp", "httpx"])
async def tls_wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    async with opened(request.param) as wire:
        yield wire


async def failure(wire: Wire, request: Request) -> Cause:
    """The cause that asking ends in, whether at the head or in the body."""
    answering = False
    try:
        async with wire.ask(request) as answer:
            answering = True
            async for _ in answer.chunks:
                pass
    except FAILURES as error:
        tls, through = request.url.startswith("https"), request.via is not None
        return named(error, "there", tls=tls, through=through, answering=answering).cause
    raise AssertionError("it answered")


async def test_a_question_and_its_answer(wire: Wire) -> None:
    headers = {"X-Said": "yes", "Location": "/y", "Set-Cookie": "a=b"}
    server = Canned({"POST /v1/x?a=b%20c": Reply(302, b"\x1f\x8b\0", headers)})
    async with listening(server) as port:
        request = Request("POST", f"http://127.0.0.1:{port}/v1/x?a=b%20c", {"Authorization": "Bearer k"}, b"{}")
        for _ in range(2):
            async with wire.ask(request) as answer:
                assert (answer.status, answer.headers["x-said"]) == (302, "yes")
                assert b"".join([part async for part in answer.chunks]) == b"\x1f\x8b\0"
    assert [(seen.method, seen.body) for seen in server.seen] == [("POST", b"{}")] * 2
    sent = {name: said for name, said in server.seen[1].headers.items() if name != "connection"}
    assert sent == {
        "host": f"127.0.0.1:{port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "tierdeck",
        "authorization": "Bearer k",
        "content-type": "application/json",
        "content-length": "2",
    }


async def test_a_way_round_keeps_the_name_asked_for(wire: Wire) -> None:
    server = Canned({"/health": Reply(200, "ok")})
    async with (
        listening(server) as port,
        wire.ask(Request("GET", "http://mark.example:3009/health", {}, via=("127.0.0.1", port))) as answer,
    ):
        assert answer.status == 200
    assert server.seen[0].headers["host"] == "mark.example:3009"


async def test_what_is_not_read_is_given_up(wire: Wire) -> None:
    server = Huge(chunked=True)
    async with listening(server) as port:
        async with wire.ask(Request("GET", f"http://127.0.0.1:{port}/", {})) as answer:
            assert await anext(aiter(answer.chunks))
        await server.ended.wait()
    assert server.sent < 2**26, "the connection was not closed"


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (servers.reset, Cause.RESET),
        (servers.reset_at_once, Cause.RESET),
        (servers.close_at_once, Cause.RESET),
        (servers.cut, Cause.RESET),
        (servers.cut_chunked, Cause.RESET),
        (servers.bad_chunks, Cause.BAD_RESPONSE),
        (servers.no_http, Cause.BAD_RESPONSE),
        (servers.long_header, Cause.BAD_RESPONSE),
    ],
)
async def test_a_faulty_peer(wire: Wire, handler: Handler, cause: Cause) -> None:
    async with listening(handler) as port:
        assert await failure(wire, Request("GET", f"http://127.0.0.1:{port}/", {})) is cause


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://127.0.0.1:{port}/", Cause.REFUSED),
        (f"http://{'a' * 70}.example/", Cause.DNS),
        ("http://xn--a.invalid/", Cause.DNS),
        ("http://127.1:80/", Cause.CONFIG),
        ("http://exa\tmple.invalid/", Cause.CONFIG),
        ("http://[bad", Cause.CONFIG),
    ],
)
async def test_an_address_that_leads_nowhere(wire: Wire, url: str, cause: Cause) -> None:
    assert await failure(wire, Request("GET", url.replace("{port}", str(free_port())), {})) is cause


async def test_a_certificate_that_nobody_signed(tls_wire: Wire, server_tls: ssl.SSLContext) -> None:
    async with listening(Canned({}), tls=server_tls) as port:
        assert await failure(tls_wire, Request("GET", f"https://127.0.0.1:{port}/", {})) is Cause.TLS


async def test_connecting_has_its_own_limit(tls_wire: Wire) -> None:
    """The handshake never ends, where the answer itself may take for ever."""
    async with listening(servers.black_hole) as port:
        assert await failure(tls_wire, Request("GET", f"https://127.0.0.1:{port}/", {}, connect=0.2)) is Cause.TIMEOUT
