"""An SSH server for one node: commands, forwarding to its Docker socket and its ports, files; and its faults."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.channel import SSHChannel

from backends.simulator.commands import SOCKETS, Commands
from backends.simulator.httpfaults import SilentProtocol
from backends.simulator.ports import LOOPBACK, Port


class SimSsh:
    """Listens between `open` and `close`. Use as an async context.

    Faults: `refuse`, `hang` (accepts, no banner), `deny` (no authentication succeeds), `change_host_key`, `drop`
    (all connections now), `max_sessions`; `heal` ends them all.
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
    ) -> None:
        self.commands = commands
        self.folder = folder
        self.user = user
        self.password = password
        self.client_key = client_key
        self.host_key = host_key
        self.docker_socket = docker_socket
        self.denying = False
        self.max_sessions = 10
        self.logins = 0
        """Connections that authenticated."""
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self._true_host_key = host_key
        self._port: Port | None = None
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._silent: set[asyncio.Transport] = set()
        self._hanging: asyncio.Server | None = None

    async def __aenter__(self) -> SimSsh:
        self._port = Port()
        await self._serve()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        await self.drop()
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
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        if self._hanging is not None:
            self._hanging.close()
            self._hanging = None
        for transport in tuple(self._silent):
            transport.abort()

    async def swallow(self) -> None:
        """Neither accept nor refuse, as a machine without power does."""
        await self.refuse()
        assert self._port is not None
        self._port.swallow()

    async def hang(self) -> None:
        """Accept, and never say a word."""
        await self.refuse()
        assert self._port is not None
        loop = asyncio.get_running_loop()
        self._hanging = await loop.create_server(lambda: SilentProtocol(self._silent), sock=self._port.listen())

    async def change_host_key(self) -> None:
        """Come back with another host key, as a reinstalled machine does."""
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        await self.refuse()
        await self.drop()
        await self._serve()

    async def drop(self) -> None:
        """End all connections now, without a goodbye."""
        for connection in tuple(self.connections):
            connection.abort()
        for connection in tuple(self.connections):
            with contextlib.suppress(OSError, asyncssh.Error):
                await connection.wait_closed()

    async def heal(self) -> None:
        """Serve as at first."""
        self.denying, self.max_sessions = False, 10
        self.host_key = self._true_host_key
        await self.refuse()
        await self._serve()

    async def _serve(self) -> None:
        assert self._port is not None
        self._acceptor = await asyncssh.listen(
            sock=self._port.listen(),
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
        return self._connection.forward_connection(LOOPBACK, dest_port)

    def unix_connection_requested(self, dest_path: str) -> Any:
        assert self._connection is not None
        socket = self._ssh.docker_socket
        if socket is None or dest_path not in (*SOCKETS, str(socket)):
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
