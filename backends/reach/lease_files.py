"""A lease as a file that only one can create, in the home of the node: written here, or by SFTP, without a shell."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from backends.cluster.tables import Node
from backends.errors import ReachError
from backends.reach.lease import Holder, NoPlace, Seen, holder_of
from backends.text import plain

if TYPE_CHECKING:
    from asyncssh import SFTPClient, SSHClientConnection

    from backends.reach.ssh import SshLink

T = TypeVar("T")

FILE: Final = ".tierdeck/lock.json"
"""The lease of a node, in the home of the user who logs in there."""

LIMIT: Final = 10.0
"""Seconds for one use of a file by SFTP."""

_MOST: Final = 65_536


class Files(Protocol):
    """The files of a node's home, by relative paths; FileExistsError, FileNotFoundError, OSError as usual."""

    async def create(self, path: str, content: bytes) -> None:
        """A new file for its owner's eyes only; FileExistsError where there is one."""
        ...

    async def read(self, path: str) -> tuple[bytes, float]:
        """What is in a file, and when it was written last, by the node's clock."""
        ...

    async def touch(self, path: str) -> None:
        """Write a file's first byte, "{", once more: it is then of now, by the node's clock, whoever's it is."""
        ...

    async def rename(self, path: str, to: str) -> None:
        """Give a file another name."""
        ...

    async def remove(self, path: str) -> None:
        """Remove a file."""
        ...


class FilePlace:
    """A lease as a file."""

    def __init__(self, files: Files, node: str, path: str = FILE) -> None:
        self._files = files
        self._node = node
        self._path = path

    @property
    def where(self) -> str:
        """The place, for people."""
        return f"~/{self._path} on {self._node}"

    async def look(self) -> Seen | None:
        """Who holds it."""
        found = await self._read(self._path)
        if found is None:
            return None
        data, beat = found
        now = await self._usable(self._now())
        since = data.get("since")
        held = now - (since if isinstance(since, int | float) else beat)
        return Seen(holder_of(data, self._node), max(0.0, held), max(0.0, now - beat))

    async def create(self, holder: Holder) -> bool:
        """Take it, unless somebody has."""
        if await self.token() is not None:
            return False
        try:
            content = json.dumps({**asdict(holder), "since": await self._now()})
            await self._files.create(self._path, content.encode())
        except FileExistsError:
            return False
        except OSError as error:
            raise NoPlace(
                f"{self.where} cannot be written: {error.strerror or error}.", "A lease must be kept there: make room."
            ) from error
        return True

    async def token(self) -> str | None:
        """Whose it is."""
        found = await self._read(self._path)
        return None if found is None else holder_of(found[0], self._node).token

    async def beat(self, token: str) -> bool:
        """Give a sign of life."""
        if await self.token() != token:
            return False
        with suppress(FileNotFoundError):
            await self._usable(self._files.touch(self._path))
            return True
        return False

    async def clear(self, token: str) -> bool:
        """End the lease; it is moved aside first, and put back if it was another's by then."""
        if await self.token() != token:
            return False
        aside = f"{self._path}.{secrets.token_hex(4)}"
        try:
            await self._usable(self._files.rename(self._path, aside))
        except FileNotFoundError:
            return False
        found = await self._read(aside)
        if found is not None and holder_of(found[0], self._node).token != token:
            await self._usable(self._files.rename(aside, self._path))
            return False
        await self._usable(self._files.remove(aside))
        return True

    async def _read(self, path: str) -> tuple[dict[str, Any], float] | None:
        """What a file says, nothing where it was not written yet; None where there is none."""
        try:
            raw, written = await self._usable(self._files.read(path))
        except FileNotFoundError:
            return None
        try:
            data = json.loads(raw)
        except ValueError:
            data = None
        return (data if isinstance(data, dict) else {}), written

    async def _now(self) -> float:
        """The node's time: that of a file just written there."""
        path = str(PurePosixPath(self._path).with_name(f"clock.{secrets.token_hex(4)}"))
        await self._files.create(path, b"{}")
        try:
            return (await self._files.read(path))[1]
        finally:
            await self._files.remove(path)

    async def _usable(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ReachError(f"{self.where} cannot be used: {error.strerror or error}.") from error


def home_of(node: Node) -> Path:
    """The home of this machine in which those look who come by SSH; our own where theirs is closed to us."""
    user = node.ssh.user if node.ssh else None
    if user and user != getpass.getuser():
        home = Path(os.path.expanduser(f"~{user}"))
        if os.access(home, os.W_OK):
            return home
    return Path.home()


class LocalFiles:
    """The files of this machine; what root makes in the home of another is that other's."""

    def __init__(self, home: Path) -> None:
        self._home = home

    async def create(self, path: str, content: bytes) -> None:
        """A new file, in a folder that is made for it."""
        await asyncio.to_thread(self._create, self._home / path, content)

    async def read(self, path: str) -> tuple[bytes, float]:
        """What is in a file, and when it was written last."""

        def read() -> tuple[bytes, float]:
            with (self._home / path).open("rb") as file:
                return file.read(_MOST), os.fstat(file.fileno()).st_mtime

        return await asyncio.to_thread(read)

    async def touch(self, path: str) -> None:
        """Write a file's first byte once more."""

        def touch() -> None:
            with (self._home / path).open("r+b") as file:
                file.write(b"{")

        await asyncio.to_thread(touch)

    async def rename(self, path: str, to: str) -> None:
        """Give a file another name."""
        await asyncio.to_thread(os.rename, self._home / path, self._home / to)

    async def remove(self, path: str) -> None:
        """Remove a file."""
        await asyncio.to_thread(os.unlink, self._home / path)

    def _create(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)
        if not os.geteuid():
            home = self._home.stat()
            for made in (path.parent, path):
                os.chown(made, home.st_uid, home.st_gid)


class SftpFiles:
    """The files of a node's home over its SSH connection."""

    def __init__(self, link: SshLink) -> None:
        self._link = link
        self._opened: tuple[SSHClientConnection, SFTPClient] | None = None
        self._opening = asyncio.Lock()

    async def create(self, path: str, content: bytes) -> None:
        """A new file, in a folder that is made for it."""
        try:
            await self._create(path, content)
        except FileNotFoundError:
            await self._make_folder(str(PurePosixPath(path).parent))
            await self._create(path, content)

    async def read(self, path: str) -> tuple[bytes, float]:
        """What is in a file, and when it was written last."""
        async with self._sftp() as sftp, sftp.open(path, "rb") as file:
            content, status = await file.read(_MOST), await file.stat()
            raw = content if isinstance(content, bytes) else content.encode()
            return raw, float(status.mtime or 0) + (status.mtime_ns or 0) / 1e9

    async def touch(self, path: str) -> None:
        """Write a file's first byte once more."""
        async with self._sftp() as sftp, sftp.open(path, "r+b") as file:
            await file.write(b"{", 0)

    async def rename(self, path: str, to: str) -> None:
        """Give a file another name."""
        async with self._sftp() as sftp:
            await sftp.rename(path, to)

    async def remove(self, path: str) -> None:
        """Remove a file."""
        async with self._sftp() as sftp:
            await sftp.remove(path)

    async def _create(self, path: str, content: bytes) -> None:
        from asyncssh import SFTPAttrs

        try:
            async with self._sftp() as sftp, sftp.open(path, "xb", SFTPAttrs(permissions=0o600)) as file:
                await file.write(content)
        except FileNotFoundError:
            raise
        except OSError as error:
            if await self._exists(path):  # version 3 has one word for all refusals
                raise FileExistsError(path) from error
            raise

    async def _make_folder(self, path: str) -> None:
        from asyncssh import SFTPAttrs

        try:
            async with self._sftp() as sftp:
                await sftp.mkdir(path, SFTPAttrs(permissions=0o700))
        except OSError:
            if not await self._exists(path):  # else somebody was quicker
                raise

    async def _exists(self, path: str) -> bool:
        async with self._sftp() as sftp:
            return await sftp.exists(path)

    async def _client(self) -> SFTPClient:
        async with self._opening:
            connection = await self._link.connection()
            if self._opened is None or self._opened[0] is not connection:
                self._opened = connection, await connection.start_sftp_client()
            return self._opened[1]

    @asynccontextmanager
    async def _sftp(self) -> AsyncIterator[SFTPClient]:
        """The client, opened anew where the connection is; its errors as the system's."""
        import asyncssh

        from backends.reach import ssh_errors

        link = self._link
        try:
            async with asyncio.timeout(LIMIT):
                yield await self._client()
        except asyncssh.SFTPNoSuchFile as error:
            raise FileNotFoundError(error.reason) from error
        except (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost, asyncssh.ConnectionLost) as error:
            self._opened = None
            raise link.dropped(error) from error
        except asyncssh.SFTPError as error:
            raise OSError(plain(error.reason) or "refused") from error
        except asyncssh.ChannelOpenError as error:
            if not link.connected:
                raise link.dropped(error) from error
            if error.code != asyncssh.OPEN_REQUEST_SESSION_FAILED:
                raise ssh_errors.refused_session(link.target, error) from error
            raise NoPlace(
                f"{link.target.node}: its SSH server offers no SFTP.", "Add Subsystem sftp internal-sftp."
            ) from error
        except TimeoutError:
            self._opened = None
            raise (
                link.unfinished(LIMIT)
                if not link.connected
                else ReachError(f"{link.target.node}: its SFTP server did not answer within {LIMIT:g} s.")
            ) from None
