"""One SSH connection per node: commands, streams and forwarded sockets share it; a lost one is opened anew.

Host keys are always checked. Every failure is an SshError that says what happened and what to do.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs
from pydantic import SecretStr

from backends.cluster.tables import Node
from backends.errors import CommandError, SecretError, SshError
from backends.reach import ssh_errors
from backends.reach.bridge import Bridge, Duplex
from backends.reach.ssh_errors import Attempt, Target
from backends.reach.streams import first_words

SESSIONS: Final = 8
"""Sessions side by side on one connection; servers allow 10 by default (MaxSessions), people need some too."""

CONNECT_LIMIT: Final = 10.0
"""Seconds for a connection, from TCP to login."""

CIPHERS: Final = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
"""Ciphers that are asked for before asyncssh's own: a packet takes 11 us of CPU, where ChaCha20, which asyncssh puts
together from several calls, takes 71."""

_T = TypeVar("_T")
_Channel = tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]
_GRACE: Final = 1.0
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk", "id_ed448")


def target_of(node: Node) -> Target:
    """Where and as whom to log in on `node`; SshError where the inventory gives it no `ssh`."""
    if node.ssh is None:
        raise SshError(
            f"{node.name} is not reached: no ssh in cluster.toml.", f'Add ssh = {{ user = "..." }} to {node.name}.'
        )
    ssh = node.ssh
    return Target(
        node=node.name,
        host=node.address,
        port=ssh.port,
        user=ssh.user or getpass.getuser(),
        known_hosts=Path(ssh.known_hosts or "~/.ssh/known_hosts").expanduser(),
        key=Path(ssh.key).expanduser() if ssh.key else None,
        password=ssh.password is not None,
    )


class SshLink:
    """The one connection to a node, opened by whoever needs it first; `password` resolves it when it is needed."""

    def __init__(
        self,
        target: Target,
        password: Callable[[], Awaitable[SecretStr]] | None = None,
        *,
        connect_limit: float = CONNECT_LIMIT,
        keepalive: float = 10.0,
        sessions: int = SESSIONS,
    ) -> None:
        self.target = target
        self.sessions = sessions
        self.connect_limit = connect_limit
        self._password = password
        self._keepalive = keepalive
        self._slots = asyncio.Semaphore(sessions)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting: asyncio.Task[asyncssh.SSHClientConnection] | None = None
        self._attempt = Attempt()
        self._lost: Exception | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether a connection stands, as far as is known."""
        return self._connection is not None and not self._connection.is_closed()

    async def connection(self) -> asyncssh.SSHClientConnection:
        """The connection; all who ask while it is being opened wait for the same attempt."""
        if self._closed:
            raise SshError(f"{self.target.node}: the SSH connection is closed.")
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name=f"ssh {self.target.node}")
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._connecting)

    def unfinished(self, limit: float) -> SshError:
        """Why there is no connection yet, for who waited only `limit` seconds."""
        return ssh_errors.explain(TimeoutError(), self.target, self._attempt, limit)

    def watch(self, reader: asyncssh.SSHReader[bytes]) -> _Watched:
        """The reader, saying in our words when the connection is gone."""
        return _Watched(self, reader)

    def dropped(self, error: Exception | None = None) -> SshError:
        """What to say when the connection is gone."""
        return ssh_errors.dropped(self.target, error or self._lost)

    async def close(self) -> None:
        """Close the connection, and whatever runs over it."""
        self._closed = True
        if self._connecting:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._connection:
            self._connection.abort()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await self._connection.wait_closed()

    @asynccontextmanager
    async def session(
        self, argv: Sequence[str], *, limit: float = CONNECT_LIMIT
    ) -> AsyncGenerator[asyncssh.SSHClientProcess[bytes], None]:
        """A command's session, begun within `limit` seconds; the command is ended on leaving."""
        deadline = asyncio.get_running_loop().time() + limit
        waiting = False
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self.connection()
                waiting = self._slots.locked()
                await self._slots.acquire()
        except TimeoutError:
            raise self._hindrance(limit, waiting=waiting) from None
        process = None
        try:
            async with asyncio.timeout_at(deadline):
                opening = connection.create_process(shlex.join(argv), encoding=None)
                process = await _opened(opening, _end)
            yield process
        except asyncssh.ChannelOpenError as error:
            raise (
                self.dropped() if connection.is_closed() else ssh_errors.refused_session(self.target, error)
            ) from None
        except asyncssh.DisconnectError as error:
            raise self.dropped(error) from None
        except TimeoutError:
            if process:
                raise
            raise self._hindrance(limit, waiting=False) from None
        finally:
            if process:
                _end(process)
            self._slots.release()

    @asynccontextmanager
    async def unix(self, path: str) -> AsyncGenerator[Duplex, None]:
        """A connection to a unix socket of the node."""
        connection = await self.connection()
        async with self._channel(connection.open_unix_connection(path), path) as duplex:
            yield duplex

    @asynccontextmanager
    async def tcp(self, host: str, port: int) -> AsyncGenerator[Duplex, None]:
        """A connection to an address as seen from the node."""
        connection = await self.connection()
        async with self._channel(connection.open_connection(host, port), f"{host}:{port}") as duplex:
            yield duplex

    async def forward_socket(self, path: str) -> tuple[str, Bridge]:
        """A local unix socket that leads to the node's socket at `path`, and the bridge to close."""
        bridge = Bridge(lambda: self.unix(path))
        return await bridge.listen_unix(), bridge

    async def forward_port(self, host: str, port: int) -> tuple[int, Bridge]:
        """A port on 127.0.0.1 that leads to `host`:`port` as seen from the node, and the bridge to close."""
        bridge = Bridge(lambda: self.tcp(host, port))
        return await bridge.listen_tcp(), bridge

    def _hindrance(self, limit: float, *, waiting: bool) -> SshError:
        """Why a command could not be begun within `limit` seconds; `waiting` says that all sessions were in use."""
        if not self.connected:
            return self.unfinished(limit)
        return ssh_errors.no_session(self.target, self.sessions if waiting else None, limit)

    @asynccontextmanager
    async def _channel(self, opening: Awaitable[_Channel], to: str) -> AsyncGenerator[Duplex, None]:
        writer = None
        try:
            async with asyncio.timeout(self.connect_limit):
                reader, writer = await _opened(opening, lambda late: late[1].close())
            yield Duplex(self.watch(reader), writer)
        except asyncssh.ChannelOpenError as error:
            if not self.connected:
                raise self.dropped(error) from None
            words = first_words(error.reason) or "refused"
            raise CommandError(f"{to} cannot be opened on {self.target.node}: {words}.") from None
        except TimeoutError:
            if writer:
                raise
            raise CommandError(f"{to} was not opened on {self.target.node} within {self.connect_limit:g} s.") from None
        finally:
            if writer:
                writer.close()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        attempt = self._attempt = Attempt()
        target = self.target
        try:
            known_hosts, keys = await asyncio.to_thread(_read_files, target, attempt)
            password = (await self._password()).get_secret_value() if self._password else None
            connection = await asyncssh.connect(
                target.host,
                target.port,
                config=None,
                username=target.user,
                password=password,
                client_keys=keys,
                ignore_encrypted=True,
                known_hosts=known_hosts,
                encryption_algs=CIPHERS,
                server_host_key_algs=_algorithms(known_hosts, target),
                client_factory=lambda: _Client(self, attempt, known_hosts),
                connect_timeout=self.connect_limit,
                login_timeout=self.connect_limit,
                keepalive_interval=self._keepalive,
                keepalive_count_max=3,
            )
        except (SshError, asyncio.CancelledError):
            raise
        except SecretError as error:
            raise SshError(f"{target.node}: {error.message}", error.advice) from error
        except (asyncssh.Error, OSError, ValueError) as error:
            raise ssh_errors.explain(error, target, attempt, self.connect_limit) from error
        self._connection, self._lost = connection, None
        return connection

    def lost(self, error: Exception | None) -> None:
        """Remember why the connection ended."""
        self._lost = error


class _Client(asyncssh.SSHClient):
    """Watches how far a connection comes, and when it goes."""

    def __init__(self, link: SshLink, attempt: Attempt, known: asyncssh.SSHKnownHosts) -> None:
        self._link = link
        self._attempt = attempt
        self._known = known

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._attempt.connected = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost(exc)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self._attempt.offered = f"{key.get_algorithm()} {key.get_fingerprint()}"
        self._attempt.keys_known = bool(self._known.match(host, addr, None if port == 22 else port)[0])
        return False


class _Watched:
    """A stream from a node whose every failure to be read is that the connection was dropped."""

    def __init__(self, link: SshLink, reader: asyncssh.SSHReader[bytes]) -> None:
        self._link = link
        self._reader = reader

    async def read(self, n: int = -1, /) -> bytes:
        try:
            return await self._reader.read(n)
        except (asyncssh.Error, OSError) as error:
            raise self._link.dropped(error) from error


async def _opened(opening: Awaitable[_T], undo: Callable[[_T], None]) -> _T:
    """What `opening` gives; where nobody waits for it any more, it is undone when it comes."""

    def late(done: asyncio.Future[_T]) -> None:
        if not done.cancelled() and done.exception() is None:
            undo(done.result())

    task = asyncio.ensure_future(opening)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(late)
        raise


def _read_files(target: Target, attempt: Attempt) -> tuple[asyncssh.SSHKnownHosts, list[str] | tuple[()]]:
    """The known hosts (none where there is no file) and the key files to try; fills in what `attempt` may need."""
    try:
        known = asyncssh.read_known_hosts(str(target.known_hosts))
    except FileNotFoundError:
        known = asyncssh.import_known_hosts("")
    except (OSError, ValueError) as error:
        raise SshError(f"{target.node}: {target.known_hosts} cannot be read: {error}.", "Correct the file.") from error
    port = None if target.port == 22 else target.port
    attempt.keys_known = bool(known.match(target.host, "", port)[0])
    tried = [] if not os.environ.get("SSH_AUTH_SOCK") else ["the agent's keys"]
    if target.password:
        tried.append("the password")
    if target.key is None:
        tried += [f"~/.ssh/{name}" for name in _DEFAULT_KEYS if Path("~/.ssh", name).expanduser().is_file()]
        attempt.tried = tuple(tried)
        return known, ()
    attempt.tried = (str(target.key), *tried)
    try:
        asyncssh.read_private_key(target.key)
    except FileNotFoundError:
        raise SshError(
            f"{target.node}: there is no key file {target.key}.", "Correct ssh.key, or make one with ssh-keygen."
        ) from None
    except (OSError, ValueError) as error:
        attempt.locked_key = "assphrase" in str(error)
        if not attempt.locked_key:
            raise SshError(
                f"{target.node}: the key file {target.key} cannot be used: {error}.", "Name a private key in ssh.key."
            ) from error
    return known, [str(target.key)]


def _algorithms(known: asyncssh.SSHKnownHosts, target: Target) -> list[str]:
    """The kinds of host key to ask for: the known ones first, then all others.

    asyncssh alone asks for known kinds only; a host that changed its key for one of another kind then hangs up, and
    nobody would learn that it changed.
    """
    keys, authorities, *_ = known.match(target.host, "", target.port)
    wanted = [algorithm for key in keys for algorithm in key.sig_algorithms]
    certified = list(get_default_certificate_algs()) if authorities else []
    everything = dict.fromkeys([*certified, *wanted, *get_default_public_key_algs()])
    return [algorithm.decode("ascii") for algorithm in everything]


def _end(process: asyncssh.SSHClientProcess[bytes]) -> None:
    """End the command and its channel without waiting; servers that know no signals end it with its streams."""
    with suppress(OSError):
        process.kill()
    process.close()
