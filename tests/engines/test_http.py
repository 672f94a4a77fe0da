"""HTTP as it goes out: every fault of a peer has its named cause, within its time, and leaves nothing open."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp.abc import ResolveResult

from backends.cluster.words import Cause
from backends.engines.failures import named
from backends.engines.http import Http
from backends.engines.target import ProbeFailure, Via
from backends.errors import ReachError
from tests.engines import servers
from tests.engines.servers import Canned, Handler, Huge, Reply, eventually, free_port, listening

LIMIT = 5.0
"""Seconds that a request may take where it is not silence that is tested."""

SHORT = 0.4


async def failure(http: Http, url: str, *, limit: float = LIMIT, via: Via = None) -> ProbeFailure:
    """The failure that asking `url` ends in, within its time limit and half a second."""
    began = time.monotonic()
    with pytest.raises(ProbeFailure) as caught:
        await http.get(url, timeout=limit, via=via)
    assert time.monotonic() - began < limit + 0.5
    return caught.value


@pytest.mark.parametrize(
    ("handler", "cause", "words"),
    [
        (servers.black_hole, Cause.TIMEOUT, "no answer from 127.0.0.1:{port} within 0.4 s"),
        (servers.half_open, Cause.TIMEOUT, "answer of 127.0.0.1:{port} not complete within 0.4 s (5 bytes came)"),
        (servers.drip, Cause.TIMEOUT, "answer of 127.0.0.1:{port} not complete within 0.4 s"),
        (servers.drip_headers, Cause.TIMEOUT, "no answer from 127.0.0.1:{port} within 0.4 s"),
        (servers.reset, Cause.RESET, "connection reset by 127.0.0.1:{port}"),
        (servers.reset_at_once, Cause.RESET, "connection reset by 127.0.0.1:{port}"),
        (servers.close_at_once, Cause.RESET, "closed by 127.0.0.1:{port} before it answered"),
        (servers.cut, Cause.RESET, "127.0.0.1:{port} broke off in mid-answer"),
        (servers.cut_chunked, Cause.RESET, "127.0.0.1:{port} broke off in mid-answer"),
        (servers.bad_chunks, Cause.BAD_RESPONSE, "127.0.0.1:{port} does not speak HTTP"),
        (servers.no_http, Cause.BAD_RESPONSE, "127.0.0.1:{port} does not speak HTTP"),
        (servers.long_header, Cause.BAD_RESPONSE, "127.0.0.1:{port} does not speak HTTP"),
    ],
)
async def test_a_faulty_peer_has_its_cause(http: Http, handler: Handler, cause: Cause, words: str) -> None:
    async with listening(handler) as port:
        limit = SHORT if cause is Cause.TIMEOUT else LIMIT
        found = await failure(http, f"http://127.0.0.1:{port}/health", limit=limit)
    assert found.cause is cause
    assert found.evidence.startswith(words.format(port=port)), found.evidence


async def test_refused(http: Http) -> None:
    port = free_port()
    found = await failure(http, f"http://127.0.0.1:{port}/")
    assert (found.cause, found.evidence) == (Cause.REFUSED, f"connect refused by 127.0.0.1:{port}")


async def test_a_name_without_address(http: Http) -> None:
    found = await failure(http, "http://no-such-host.invalid:3009/health")
    assert found.cause is Cause.DNS
    assert "no-such-host.invalid:3009" in found.evidence


async def test_a_name_with_several_addresses(http: Http) -> None:
    async with listening(Canned({"/": Reply(200, "ok")})) as port:
        assert (await http.get(f"http://localhost:{port}/", timeout=LIMIT)).body == b"ok"
    found = await failure(http, f"http://localhost:{port}/")
    assert (found.cause, found.evidence) == (Cause.REFUSED, f"connect refused by localhost:{port}")


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        (f"http://{'a' * 70}.example/", Cause.DNS),
        ("http://127.1:80/", Cause.CONFIG),
        ("http://exa\tmple.invalid/", Cause.CONFIG),
        ("http://xn--a.invalid/", Cause.DNS),
    ],
)
async def test_addresses_that_cannot_be_asked(http: Http, url: str, cause: Cause) -> None:
    assert (await failure(http, url)).cause is cause


async def test_a_silent_name_server_holds_up_nobody() -> None:
    asked: list[str] = []

    def lookup(host: str, port: int, family: int) -> list[ResolveResult]:
        asked.append(host)
        time.sleep(3)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    began = time.monotonic()
    async with Http(lookup=lookup) as http, listening(Canned({"/": Reply(200, "ok")})) as port:
        tasks = [
            asyncio.create_task(failure(http, f"http://slow.example:{i % 3 + 1}/", limit=SHORT)) for i in range(30)
        ]
        answer = await http.get(f"http://127.0.0.1:{port}/", timeout=LIMIT)
        assert answer.body == b"ok"
        assert {task.cause for task in await asyncio.gather(*tasks)} == {Cause.TIMEOUT}
    assert time.monotonic() - began < 2
    assert len(asked) == 3


async def test_a_connection_that_is_never_accepted(http: Http) -> None:
    """The queue of the listener is full, so that the kernel lets further connects wait."""
    sock = socket.socket()
    held: list[socket.socket] = []
    try:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):
            held.append(socket.socket())
            held[-1].setblocking(False)
            with suppress(BlockingIOError):
                held[-1].connect(sock.getsockname())
        found = await failure(http, f"http://127.0.0.1:{sock.getsockname()[1]}/", limit=SHORT)
    finally:
        for one in (*held, sock):
            one.close()
    assert found.cause is Cause.TIMEOUT


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_gigabyte_is_cut_at_the_limit(http: Http, chunked: bool) -> None:
    server = Huge(chunked=chunked)
    async with listening(server) as port:
        found = await failure(http, f"http://127.0.0.1:{port}/")
        async with asyncio.timeout(1):
            await server.ended.wait()
    assert found.cause is Cause.BAD_RESPONSE
    assert "more than 1 MiB" in found.evidence
    assert server.sent < 2**26, "the connection was not closed"


async def test_redirects_cookies_and_proxies_are_not_followed(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    away = Reply(302, "", {"Location": "/elsewhere", "Set-Cookie": "a=b; Path=/"})
    server = Canned({"/": away})
    async with listening(server) as port:
        first = await http.get(f"http://127.0.0.1:{port}/", timeout=LIMIT)
        await http.get(f"http://127.0.0.1:{port}/", timeout=LIMIT)
    assert first.status == 302
    assert server.paths == ["/", "/"]
    assert "cookie" not in server.seen[1].headers
    assert server.seen[0].headers["accept-encoding"] == "identity"


async def test_a_location_that_is_none_does_no_harm(http: Http) -> None:
    async with listening(Canned({"/": Reply(302, "", {"Location": "http://[bad"})})) as port:
        assert (await http.get(f"http://127.0.0.1:{port}/", timeout=LIMIT)).status == 302


async def test_a_compressed_answer_is_not_unpacked(http: Http) -> None:
    async with listening(Canned({"/": Reply(200, b"\x1f\x8b", {"Content-Encoding": "gzip"})})) as port:
        found = await failure(http, f"http://127.0.0.1:{port}/")
    assert found.cause is Cause.BAD_RESPONSE
    assert "gzip" in found.evidence


async def test_post_sends_json(http: Http) -> None:
    server = Canned({"POST /x": Reply(200, "done")})
    async with listening(server) as port:
        answer = await http.post(f"http://127.0.0.1:{port}/x", b'{"a":1}', timeout=LIMIT, headers={"X-A": "b"})
    assert answer.body == b"done"
    assert (server.seen[0].body, server.seen[0].headers["content-type"]) == (b'{"a":1}', "application/json")
    assert server.seen[0].headers["x-a"] == "b"


class TestTls:
    async def test_a_certificate_that_nobody_signed(self, http: Http, server_tls: ssl.SSLContext) -> None:
        async with listening(Canned({}), tls=server_tls) as port:
            found = await failure(http, f"https://127.0.0.1:{port}/")
        assert found.cause is Cause.TLS
        assert "certificate of 127.0.0.1" in found.evidence
        assert "self" in found.evidence

    async def test_the_systems_certificates_do_not_know_it_either(self, server_tls: ssl.SSLContext) -> None:
        async with Http() as http, listening(Canned({}), tls=server_tls) as port:
            url = f"https://127.0.0.1:{port}/"
            found = await asyncio.gather(*(http.get(url, timeout=5) for _ in range(3)), return_exceptions=True)
        assert [one.cause for one in found if isinstance(one, ProbeFailure)] == [Cause.TLS] * 3

    async def test_a_trusted_certificate(self, trusting: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
        async with Http(tls=trusting) as http, listening(Canned({"/": Reply(200, "ok")}), tls=server_tls) as port:
            assert (await http.get(f"https://127.0.0.1:{port}/", timeout=LIMIT)).body == b"ok"

    async def test_a_server_without_tls(self, http: Http) -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(Reply(400, "what?").wire)
            await asyncio.Event().wait()

        async with listening(plain) as port:
            found = await failure(http, f"https://127.0.0.1:{port}/")
        assert (found.cause, found.evidence) == (Cause.TLS, f"no TLS with 127.0.0.1:{port}: wrong version number")

    async def test_garbage_instead_of_a_handshake(self, http: Http) -> None:
        async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(os.urandom(64))
            await asyncio.Event().wait()

        async with listening(garbage) as port:
            assert (await failure(http, f"https://127.0.0.1:{port}/")).cause is Cause.TLS

    @pytest.mark.parametrize("hard", [False, True])
    async def test_a_handshake_broken_off(self, http: Http, hard: bool) -> None:
        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            if hard:
                servers.reset_now(writer)

        async with listening(close) as port:
            assert (await failure(http, f"https://127.0.0.1:{port}/")).cause is Cause.TLS

    async def test_a_handshake_that_hangs(self, http: Http) -> None:
        async with listening(servers.black_hole) as port:
            assert (await failure(http, f"https://127.0.0.1:{port}/", limit=SHORT)).cause is Cause.TIMEOUT

    async def test_tls_where_none_was_meant(self, http: Http, server_tls: ssl.SSLContext) -> None:
        async with listening(Canned({}), tls=server_tls) as port:
            assert (await failure(http, f"http://127.0.0.1:{port}/")).cause in (Cause.BAD_RESPONSE, Cause.RESET)


class TestForwards:
    async def test_host_and_port(self, http: Http) -> None:
        server = Canned({"/health": Reply(200, "ok")})
        async with listening(server) as port:
            answer = await http.get("http://mark.example:3009/health", timeout=LIMIT, via=("127.0.0.1", port))
        assert answer.body == b"ok"
        assert server.seen[0].headers["host"] == "mark.example:3009"

    async def test_tls_through_a_forward_checks_the_name_asked_for(
        self, trusting: ssl.SSLContext, server_tls: ssl.SSLContext
    ) -> None:
        async with Http(tls=trusting) as http, listening(Canned({"/": Reply(200, "ok")}), tls=server_tls) as port:
            via = ("127.0.0.1", port)
            found = await failure(http, "https://mark.example:3009/", via=via)
            assert found.cause is Cause.TLS
            assert (await http.get("https://127.0.0.1:3009/", timeout=LIMIT, via=via)).body == b"ok"

    async def test_closed_at_once_means_refused_over_there(self, http: Http) -> None:
        """An SSH forward accepts, asks the far end, and closes when that refuses."""

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            return

        async with listening(refuse) as port:
            found = await failure(http, "http://mark.example:3009/", via=("127.0.0.1", port))
        assert found.cause is Cause.REFUSED
        assert found.evidence.startswith("connect refused by mark.example:3009 on its node")

    async def test_a_forward_that_is_gone(self, http: Http) -> None:
        found = await failure(http, "http://mark.example:3009/", via=("127.0.0.1", free_port()))
        assert (found.cause, found.evidence) == (Cause.REFUSED, "connect refused by mark.example:3009")


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ECONNREFUSED, Cause.REFUSED),
        (errno.EHOSTUNREACH, Cause.UNREACHABLE),
        (errno.ENETUNREACH, Cause.UNREACHABLE),
        (errno.EACCES, Cause.UNREACHABLE),
        (errno.ECONNRESET, Cause.RESET),
        (errno.EPIPE, Cause.RESET),
        (errno.ETIMEDOUT, Cause.TIMEOUT),
    ],
)
def test_errors_of_the_system_by_number(number: int, cause: Cause) -> None:
    error = RuntimeError("outer")
    error.__cause__ = OSError(number, os.strerror(number))
    found = named(error, "10.0.10.20:3009", tls=False, through=False, answering=False)
    assert found.cause is cause
    assert "10.0.10.20:3009" in found.evidence


def test_the_systems_own_words() -> None:
    error = OSError(errno.EHOSTUNREACH, "x")
    assert named(error, "a:1", tls=False, through=False, answering=False).evidence == "No route to host: a:1"


def test_several_addresses_that_failed_differently() -> None:
    error = OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 101] Network is unreachable")
    assert named(error, "a:1", tls=False, through=False, answering=False).cause is Cause.REFUSED


def test_no_file_descriptors_left_is_no_fault_of_the_endpoint() -> None:
    with pytest.raises(ReachError, match="ulimit"):
        named(OSError(errno.EMFILE, "x"), "a:1", tls=False, through=False, answering=False)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
async def test_no_connection_outlives_a_failure(http: Http) -> None:
    """Descriptors are counted: after many failures of all kinds there are as many as before."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    faults = (servers.half_open, servers.cut, servers.reset, servers.no_http, Huge(chunked=True))
    before = descriptors()
    for handler in faults:
        async with listening(handler) as port:
            for _ in range(3):
                await failure(http, f"http://127.0.0.1:{port}/", limit=SHORT)
    await eventually(lambda: descriptors() <= before)


async def test_a_cancelled_request_closes_its_connection(http: Http) -> None:
    closed = asyncio.Event()
    asked = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await servers.read_request(reader)
        asked.set()
        await reader.read()
        closed.set()

    async with listening(handler) as port:
        task = asyncio.create_task(http.get(f"http://127.0.0.1:{port}/", timeout=10))
        async with asyncio.timeout(1):
            await asked.wait()
            task.cancel()
            await closed.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
