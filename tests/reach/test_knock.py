"""What a port says of a machine."""

from __future__ import annotations

import asyncio
import socket

from backends.reach.knock import knock, resolves, route


async def test_ports() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        found = await knock("127.0.0.1", port)
        assert (found.kind, found.alive, found.words) == ("open", True, f"127.0.0.1:{port} answers")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = await knock("127.0.0.1", closed.getsockname()[1])
    assert (found.kind, found.alive) == ("refused", True)


async def test_a_port_that_never_answers() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        found = await knock("127.0.0.1", full.getsockname()[1], timeout=0.2)
        for filler in fillers:
            filler.close()
    assert (found.kind, found.alive) == ("silent", False)


async def test_names_and_ways() -> None:
    assert await resolves("localhost") == ""
    assert "no-such-host.invalid is not found" in await resolves("no-such-host.invalid")
    assert route("127.0.0.1") == ""
