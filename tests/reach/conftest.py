"""An SSH server in this process: it knows a handful of commands and can be made to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from backends.cluster.tables import Node
from backends.reach.ssh import SshLink, target_of
from backends.reach.ssh_shell import SshShell


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Wait for a condition, at most so many seconds."""
    async with asyncio.timeout(seconds):
        while not condition():  # conditions of others, which set no event
            await asyncio.sleep(0.005)


@dataclass
class Server:
    """What the tests may turn: who may log in, how many sessions, and which connections there are."""

    folder: Path
    key: asyncssh.SSHKey
    host_key: asyncssh.SSHKey
    port: int = 0
    password: str = ""
    max_sessions: int = 100
    logins: int = 0
    ran: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    acceptor: asyncssh.SSHAcceptor | None = None

    async def listen(self) -> None:
        self.acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Login(self),
            server_host_keys=[self.host_key],
            encoding=None,
        )
        self.port = self.acceptor.get_port()

    async def command(self, name: str, words: list[str], process: asyncssh.SSHServerProcess[bytes]) -> int:
        if name == "say":
            process.stdout.write(words[0].encode())
            process.stderr.write(words[1].encode())
            return int(words[2])
        if name == "cat":
            process.stdout.write(await process.stdin.read())
            return 0
        if name == "bytes":
            process.stdout.write(bytes.fromhex(words[0]))
            return 0
        if name == "count":
            for number in range(int(words[0])):
                process.stdout.write(b"line %d\r\n" % number)
        if name in ("hang", "count"):
            await asyncio.Event().wait()
        process.stderr.write(f"sh: 1: {name}: not found\n".encode())
        return 127

    def drop(self) -> None:
        for connection in self.connections:
            connection.abort()

    async def close(self) -> None:
        self.drop()
        if self.acceptor:
            self.acceptor.close()
            await self.acceptor.wait_closed()

    def trust(self, key: asyncssh.SSHKey | None = None) -> Path:
        """A known_hosts file with the server's key, or another in its place."""
        path = self.folder / "known_hosts"
        public = (key or self.host_key).export_public_key().decode()
        path.write_text(f"[127.0.0.1]:{self.port} {public}")
        return path

    def node(self, **ssh: Any) -> Node:
        """A node reached at this server."""
        settings = {"user": "ops", "port": self.port, "key": str(self.folder / "key")}
        settings["known_hosts"] = str(self.folder / "known_hosts")
        return Node.model_validate({"name": "mark", "address": "127.0.0.1", "ssh": settings | ssh})


class _Login(asyncssh.SSHServer):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections.append(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.remove(self._connection)

    def auth_completed(self) -> None:
        self._server.logins += 1

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "ops" and key.public_data == self._server.key.public_data

    def password_auth_supported(self) -> bool:
        return bool(self._server.password)

    def validate_password(self, username: str, password: str) -> bool:
        return username == "ops" and password == self._server.password

    def session_requested(self) -> Any:
        self._server.max_sessions -= 1
        if self._server.max_sessions < 0:
            return False
        return self._connection.create_server_channel(None, "strict"), _Process(self._server)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        return self._connection.forward_connection(dest_host, dest_port)

    def unix_connection_requested(self, dest_path: str) -> Any:
        return self._connection.forward_unix_connection(dest_path)


class _Process(asyncssh.SSHServerProcess[bytes]):
    """A session whose command ends when a signal comes or the client goes."""

    def __init__(self, server: Server) -> None:
        super().__init__(lambda _: self._execute(), None, 3, False)
        self._server = server
        self._running: asyncio.Task[int] | None = None

    def signal_received(self, signal: str) -> None:
        self._server.signals.append(signal)
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _end(self) -> None:
        if self._running and not self._running.done():
            self._running.cancel()

    async def _execute(self) -> None:
        self._server.ran.append(self.command or "")
        name, *words = shlex.split(self.command or "")
        self._running = asyncio.create_task(self._server.command(name, words, self))
        await asyncio.wait({self._running})
        if self._running.cancelled():
            self._server.killed.append(name)
        elif self._running.exception() is None:
            self.exit(self._running.result())


@pytest.fixture(scope="session")
def keys() -> tuple[asyncssh.SSHKey, asyncssh.SSHKey]:
    return asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
async def server(tmp_path: Path, keys: tuple[asyncssh.SSHKey, asyncssh.SSHKey]) -> AsyncIterator[Server]:
    keys[0].write_private_key(str(tmp_path / "key"))
    server = Server(tmp_path, *keys)
    await server.listen()
    server.trust()
    yield server
    await server.close()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys, and no agent, whoever runs the tests."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@contextlib.asynccontextmanager
async def linked(node: Node, **options: Any) -> AsyncIterator[tuple[SshLink, SshShell]]:
    """A link and its shell, closed on leaving."""
    link = SshLink(target_of(node), **options)
    try:
        yield link, SshShell(link)
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def tcp_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A TCP server on a port from the OS; connections it left open are ended with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(carry(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
