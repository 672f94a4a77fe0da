"""Proves a desktop login without opening a session, which would lock whoever sits there out of theirs.

FreeRDP's own `/auth-only` goes on until the session stands (seen with 2.11). So the client is ended as soon as NLA has
accepted the login; its connection leads through a proxy of ours that passes the node's answers on late, so that no
session can have begun by then: for that the client would need several more of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from backends.cluster.tables import Rdp
from backends.errors import RdpError
from backends.reach.rdp import Client, connecting

LIMIT: Final = 20.0
"""Seconds for name, certificate and login."""

HELD_BACK: Final = 0.3
"""Seconds by which each answer of the node is late; the client is ended within a few milliseconds."""


async def prove_login(
    client: Client,
    address: str,
    login: Rdp,
    password: SecretStr,
    *,
    pins: Path,
    limit: float = LIMIT,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Log in by NLA and leave before a session is asked for; RdpError where that is refused or not offered."""
    ours = os.environ if environment is None else environment
    async with _late_answers(address, login.port) as port:
        options = ["+auth-only", "/sec:nla", f"/proxy:http://127.0.0.1:{port}"]
        try:
            async with connecting(client, address, login, password, options, pins=pins, environment=ours) as session:
                await session.accepted(limit)
        except RdpError as error:
            raise _in_words(error, f"{login.user} on {address}:{login.port}") from error


def _in_words(error: RdpError, who: str) -> RdpError:
    """What a failure means where no session was wanted."""
    if error.fault == "negotiation":
        words = f"{who}: NLA is not offered there, so no login can be proven without opening a session."
        advice = "Switch Network Level Authentication on there; or open one: tierdeck recover NODE --from rdp"
    elif error.fault == "ended":
        words, advice = f"{who}: the login broke off ({error.why}).", "Correct the secret that wake.rdp.password names."
    else:
        return error
    return RdpError(words, advice, fault=error.fault, why=error.why)


@asynccontextmanager
async def _late_answers(address: str, port: int) -> AsyncGenerator[int, None]:
    """A proxy on a port of ours that leads to the node and nowhere else; all it opened is closed on leaving."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        task.add_done_callback(serving.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await _lead(reader, writer, address, port)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int) -> None:
    await reader.readuntil(b"\r\n\r\n")  # CONNECT with its address, which is the one that is known
    there, into = await asyncio.open_connection(address, port)
    try:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with asyncio.TaskGroup() as both:
            both.create_task(_pass(reader, into, 0.0))
            both.create_task(_pass(there, writer, HELD_BACK))
    except* OSError:
        pass  # one side has ended, and so does the other
    finally:
        into.close()
        writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float) -> None:
    while data := await reader.read(65536):
        await asyncio.sleep(late)
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
