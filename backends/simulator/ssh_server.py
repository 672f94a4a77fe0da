"""An SSH server for one node: commands, forwarding to its Docker socket and its ports, files; and its faults."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.channel import SSHChannel

from backends.simulator.commands import SOCKETS, Commands
from backends.simulator.ports import LOOPBACK, Port
from backends.simulator.relay import Relay


class SimSsh:
    """Listens while it is open. Use as an async context.

    Faults: `refuse`, `swallow` (neither accepts nor refuses), `hang` (accepts, no banner), `go_dark` (as without
    power: who is connected hears nothing any more), `drop` (all connections now), `change_host_key`, `denying`
    (no authentication succeeds), `max_sessions`, `forwards_sockets`, `relay.lag`; `heal` ends them all.
    """

    def __init__(
        self,
        commands: Commands,
        *,
        folder: Path,
        user: str,
        password: str,
        client_key: asyncssh.SSHKey,
        host_key: asyncssh.SSHKey,
        docker_socket: Path | None,
        inner_port: Callable[[int], int],
    ) -> None:
        self.commands = commands
        self.folder = folder
        self.user = user
        self.password = password
        self.client_key = client_key
        self.host_key = host_key
        self.docker_socket = docker_socket
        self.inner_port = inner_port
        """Where a port of the node really listens, seen from the node itself."""
        self.denying = False
        self.forwards_sockets = True
        self.max_sessions = 10
        self.logins = 0
        """Connections that authenticated."""
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.relay = Relay(lambda: self._acceptor.get_port() if self._acceptor else 0)
        self._true_host_key = host_key
        self._port: Port | None = None
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def __aenter__(self) -> SimSsh:
        self._port = Port()
        await self._serve()
        await self.relay.listen(self._port.listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        await self.drop()
        await self._end_serving()
        if self._port is not None:
            self._port.close()

    @property
    def port(self) -> int:
        """The TCP port."""
        assert self._port is not None
        return self._port.number

    def known_hosts_line(self) -> str:
        """The line of a known_hosts file for the key it had at first."""
        public = self._true_host_key.export_public_key().decode().strip()
        return f"[{LOOPBACK}]:{self.port} {public}\n"

    async def refuse(self) -> None:
        """Stop listening; connections stay."""
        if self._port is not None:
            self._port.refuse()
        self.relay.stop_listening()

    async def swallow(self) -> None:
        """Neither accept nor refuse."""
        await self.refuse()
        assert self._port is not None
        self._port.swallow()

    async def hang(self) -> None:
        """Accept, and never say a word, to those who are connected neither."""
        assert self._port is not None
        if not self.relay.listening:
            await self.relay.listen(self._port.listen())
        self.relay.freeze()

    async def go_dark(self) -> None:
        """Lose power: new connections come to nothing, old ones fall silent without an end."""
        await self.swallow()
        self.relay.freeze()
        await self._abort_connections()

    async def drop(self) -> None:
        """Reset all connections now."""
        await self.relay.drop()
        await self._abort_connections()

    async def change_host_key(self) -> None:
        """Come back with another host key, as a reinstalled machine does."""
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        await self.drop()
        await self._end_serving()
        await self._serve()

    async def heal(self) -> None:
        """Serve as at first."""
        self.denying, self.max_sessions, self.forwards_sockets = False, 10, True
        self.relay.lag = 0.0
        await self.refuse()
        await self.relay.thaw()
        if self.host_key is not self._true_host_key:
            self.host_key = self._true_host_key
            await self.drop()
            await self._end_serving()
            await self._serve()
        assert self._port is not None
        await self.relay.listen(self._port.listen())

    async def _abort_connections(self) -> None:
        connections = tuple(self.connections)
        for connection in connections:
            connection.abort()
        for connection in connections:
            with contextlib.suppress(OSError, asyncssh.Error):
                await connection.wait_closed()

    async def _end_serving(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None

    async def _serve(self) -> None:
        self._acceptor = await asyncssh.listen(
            LOOPBACK,
            0,
            server_factory=lambda: _Server(self),
            server_host_keys=[self.host_key],
            encoding=None,
            login_timeout=0,
            line_editor=False,
        )


class _Server(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, ssh: SimSsh) -> None:
        self._ssh = ssh
        self._connection: asyncssh.SSHServerConnection | None = None
        self.sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._ssh.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._ssh.connections.discard(self._connection)

    def auth_completed(self) -> None:
        self._ssh.logins += 1

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        same = key.public_data == self._ssh.client_key.public_data
        return same and username == self._ssh.user and not self._ssh.denying

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        right = password == self._ssh.password and username == self._ssh.user
        return right and not self._ssh.denying

    def session_requested(self) -> Any:
        assert self._connection is not None
        if self.sessions >= self._ssh.max_sessions:
            return False
        channel = self._connection.create_server_channel(None, "strict")
        return channel, _Process(self, self._ssh)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        assert self._connection is not None
        return self._connection.forward_connection(LOOPBACK, self._ssh.inner_port(dest_port))

    def unix_connection_requested(self, dest_path: str) -> Any:
        assert self._connection is not None
        socket = self._ssh.docker_socket
        if socket is None or not self._ssh.forwards_sockets or dest_path not in (*SOCKETS, str(socket)):
            return False
        return self._connection.forward_unix_connection(str(socket))


class _Process(asyncssh.SSHServerProcess[bytes]):
    """A session that counts against the limit and ends its command when a signal comes or the client goes."""

    def __init__(self, server: _Server, ssh: SimSsh) -> None:
        def files(channel: SSHChannel[bytes]) -> asyncssh.SFTPServer:
            assert isinstance(channel, asyncssh.SSHServerChannel)
            return asyncssh.SFTPServer(channel, chroot=str(ssh.folder).encode())

        super().__init__(self._begin, files, 3, False)
        self._server = server
        self._ssh = ssh
        self._running: asyncio.Task[int] | None = None
        server.sessions += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.sessions -= 1
        if self._running is not None:
            self._running.cancel()
        super().connection_lost(exc)

    def signal_received(self, signal: str) -> None:
        if self._running is not None:
            self._running.cancel()

    def _begin(self, process: asyncssh.SSHServerProcess[bytes]) -> Awaitable[None]:
        return self._execute()

    async def _execute(self) -> None:
        if self.command is None:
            self.stdout.write(b"This node runs commands only.\r\n")
            self.exit(1)
            return
        self._running = asyncio.ensure_future(self._ssh.commands.run(self.command, _Terminal(self)))
        with contextlib.suppress(OSError, asyncssh.Error):
            await asyncio.wait({self._running})
            if self._running.cancelled():
                self.exit_with_signal("TERM")
            else:
                self.exit(self._running.result())


class _Terminal:
    """Standard input and output of one command."""

    def __init__(self, process: _Process) -> None:
        self._process = process

    async def read(self, size: int) -> bytes:
        """Some input, b"" at its end."""
        return await self._process.stdin.read(size)

    async def write(self, data: str | bytes) -> None:
        """Some output."""
        self._process.stdout.write(data.encode() if isinstance(data, str) else data)
        await self._process.stdout.drain()

    async def complain(self, text: str) -> None:
        """Some standard error."""
        self._process.stderr.write(text.encode())
