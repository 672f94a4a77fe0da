"""Parts of a file on another machine, or in a Docker volume; nothing is started or written for it."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from backends.errors import ReachError
from backends.reach.files import LIMIT, Read
from backends.text import plain

if TYPE_CHECKING:
    from backends.reach.docker import DockerRuntime
    from backends.reach.ssh import SshLink

_BLOCK, _MOST_LINKS, _LONGEST_EXTRA = 512, 4, 1 << 20
_FILE, _LINKS, _EXTRAS = b"0\0", b"12", b"xgL"


async def size_over_ssh(link: SshLink, path: str) -> int:
    """Bytes of a file by SFTP; ReachError where there is none."""
    import asyncssh

    try:
        async with asyncio.timeout(LIMIT):
            client = await (await link.connection()).start_sftp_client()
            async with client:
                size = await client.getsize(_by_sftp(path))
    except (asyncssh.Error, OSError, TimeoutError) as error:
        words = getattr(error, "reason", "") or str(error) or "no answer in time"
        raise ReachError(f"{path} on {link.target.node} cannot be read: {plain(words)}.") from error
    return size or 0


def _by_sftp(path: str) -> str:
    return (f"/{path}" if path[1:2] == ":" else path).replace("\\", "/")


@asynccontextmanager
async def over_ssh(link: SshLink, path: str) -> AsyncGenerator[Read, None]:
    """Reads of a file by SFTP; `C:/...` is a path of Windows. ReachError where it cannot be read."""
    import asyncssh

    node = link.target.node

    def unread(error: Exception) -> ReachError:
        words = getattr(error, "reason", "") or str(error) or "no answer in time"
        return ReachError(f"{path} on {node} cannot be read: {plain(words)}.")

    try:
        async with asyncio.timeout(LIMIT):
            connection = await link.connection()
            client = await connection.start_sftp_client()
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise unread(error) from error
    async with client:
        try:
            async with asyncio.timeout(LIMIT):
                file = await client.open(_by_sftp(path), "rb")
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise unread(error) from error
        async with file:

            async def read(offset: int, length: int) -> bytes:
                try:
                    async with asyncio.timeout(LIMIT):
                        found = await file.read(length, offset)
                except (asyncssh.Error, OSError, TimeoutError) as error:
                    raise unread(error) from error
                return found if isinstance(found, bytes) else found.encode()

            yield read


@asynccontextmanager
async def in_volume(docker: DockerRuntime, volume: str, path: str) -> AsyncGenerator[Read, None]:
    """Reads of a file in a volume, through any container that has it, running or not; forward only."""
    holders = await docker.holders(volume)
    if not holders:
        raise ReachError(
            f"No container has the volume {volume}, so nothing in it can be read.", "Name one that has it."
        )
    id, folder = holders[0]
    where = posixpath.join(folder, path)
    async with AsyncExitStack() as stack:
        for _ in range(_MOST_LINKS):
            chunks = await stack.enter_async_context(docker.archive(id, where))
            tar = _Tar(chunks, f"{volume}/{path}")
            kind, target = await tar.begin()
            if kind == b"2":
                where = posixpath.normpath(posixpath.join(posixpath.dirname(where), target))
                continue
            if kind not in _FILE:
                raise ReachError(f"{path} in the volume {volume} is no file.")
            yield tar.read
            return
    raise ReachError(f"{path} in the volume {volume} leads from link to link.")


class _Tar:
    """The first file of an archive as it comes, read forward."""

    def __init__(self, chunks: AsyncIterator[bytes], name: str) -> None:
        self._chunks, self._name = chunks, name
        self._buffer = bytearray()
        self._at = 0
        self._size = 0

    async def begin(self) -> tuple[bytes, str]:
        """Read up to the file's first byte: its kind, and where a link leads."""
        size = None
        while True:
            block = await self._take(_BLOCK)
            if len(block) < _BLOCK or not any(block):
                raise ReachError(f"{self._name} was not in what Docker sent.")
            kind, length = block[156:157], _number(block[124:136])
            if kind not in _EXTRAS:
                self._size = length if size is None else size
                self._at = 0
                return kind, block[157:257].split(b"\0")[0].decode("utf-8", "replace")
            if length > _LONGEST_EXTRA:
                raise ReachError(f"{self._name}: Docker sent an archive that makes no sense.")
            extra = await self._take(-(-length // _BLOCK) * _BLOCK)
            for line in extra[:length].split(b"\n"):
                _, _, field = line.partition(b" ")
                if field.startswith(b"size=") and field[5:].isdigit():
                    size = int(field[5:])

    async def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on, which must not lie before what was read already."""
        while offset > self._at:
            skipped = await self._take(min(offset - self._at, 1 << 20))
            if not skipped:
                return b""
            self._at += len(skipped)
        found = await self._take(max(0, min(length, self._size - self._at)))
        self._at += len(found)
        return found

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                async with asyncio.timeout(LIMIT):
                    chunk = await anext(self._chunks, b"")
            except TimeoutError:
                raise ReachError(f"{self._name}: Docker sent nothing for {LIMIT:g} s.") from None
            if not chunk:
                break
            self._buffer += chunk
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found


def _number(field: bytes) -> int:
    """A number of a tar header: octal, or in binary where its first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:])
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return 0
