"""A small file of a node, read and replaced as a whole, with the former one kept beside it.

It lies in a folder of a Unix machine (written aside and renamed, so that it is never half there), or in a Docker
volume (through any container that has it, running or not, and read back). Content travels by standard input.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import posixpath
import tarfile
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from backends.errors import ReachError
from backends.reach.docker import DockerRuntime
from backends.reach.docker_store import DockerStore
from backends.reach.local import LocalShell
from backends.reach.runtime import Completed, Runtime, Shell
from backends.reach.streams import first_words

KEPT: Final = ".tierdeck-before"
"""What is added to the name of a file for the one that was there before."""

MOST: Final = 4 << 20
"""Bytes of a file."""

LIMIT: Final = 30.0
"""Seconds for one use of it."""

_ABSENT: Final = 44
_READ: Final = f'[ -e "$1" ] || exit {_ABSENT}; exec base64 <"$1"'
_KEEP: Final = 'set -e; f=$1; cp -pL "$f" "$2.new"; mv -f "$2.new" "$2"'
_WRITE: Final = (
    'set -e; f=$1; n=$2; if [ -L "$f" ]; then f=$(readlink -f "$f"); fi; trap \'rm -f "$f.tierdeck-new"\' EXIT; '
    'if [ -e "$f" ]; then cp -p "$f" "$f.tierdeck-new"; fi; cat >"$f.tierdeck-new"; '
    'if [ "$(wc -c <"$f.tierdeck-new")" -ne "$n" ]; then echo "only a part of it arrived" >&2; exit 1; fi; '
    'mv -f "$f.tierdeck-new" "$f"'
)


class WholeFile(Protocol):
    """A file and the one kept beside it; ReachError says why it cannot be used."""

    where: str
    """The place, for people."""

    async def read(self) -> bytes | None:
        """What is in it; None where there is none."""
        ...

    async def kept(self) -> bytes | None:
        """What was kept of it; None where nothing was."""
        ...

    async def keep(self) -> None:
        """Keep a copy of it as it is."""
        ...

    async def write(self, content: bytes) -> None:
        """Give it another content, with the rights it has."""
        ...

    async def remove(self) -> None:
        """Remove it."""
        ...


async def whole_file(
    place: str,
    node: str,
    here: str | None,
    shell: Callable[[str], Shell],
    runtime: Callable[[str, str], Awaitable[Runtime]],
) -> WholeFile:
    """The file at `place`: a path of this machine, ssh:NODE:PATH, or volume:NAME/PATH on `node`."""
    kind, colon, rest = place.partition(":")
    if colon and kind == "ssh":
        there, _, path = rest.partition(":")
        return ShellFile(shell(there), path, f"{path} on {there}")
    if colon and kind == "volume":
        volume, _, path = rest.partition("/")
        docker = await runtime(node, "docker")
        if not isinstance(docker, DockerRuntime):
            raise ReachError(f"{node} has no Docker that could hold the volume {volume}.")
        return VolumeFile(docker, volume, path)
    return _of_this_machine(place, shell(here) if here else LocalShell({"PATH": os.defpath}))


def _of_this_machine(place: str, shell: Shell) -> ShellFile:
    path = os.path.abspath(os.path.expanduser(place))
    return ShellFile(shell, path, path)


class ShellFile:
    """A file of a machine that has sh and base64."""

    def __init__(self, shell: Shell, path: str, where: str) -> None:
        self._shell, self._path, self.where = shell, path, where

    async def read(self) -> bytes | None:
        """What is in it."""
        return await self._read(self._path)

    async def kept(self) -> bytes | None:
        """What was kept of it."""
        return await self._read(self._path + KEPT)

    async def keep(self) -> None:
        """Keep a copy of it, with its rights."""
        await self._must(_KEEP, self._path, self._path + KEPT)

    async def write(self, content: bytes) -> None:
        """Write aside, then rename; a link stays one."""
        await self._must(_WRITE, self._path, str(len(content)), stdin=content)

    async def remove(self) -> None:
        """Remove it."""
        await self._must('exec rm -f "$1"', self._path)

    async def _read(self, path: str) -> bytes | None:
        done = await self._run(_READ, path)
        if done.status == _ABSENT:
            return None
        if done.status:
            raise self._failure("read", done)
        try:
            return base64.b64decode(done.stdout)
        except binascii.Error:
            raise ReachError(f"{self.where}: what came of it is not whole.") from None

    async def _must(self, script: str, *arguments: str, stdin: bytes = b"") -> None:
        done = await self._run(script, *arguments, stdin=stdin)
        if done.status:
            raise self._failure("written", done)

    async def _run(self, script: str, *arguments: str, stdin: bytes = b"") -> Completed:
        try:
            return await self._shell.run(["sh", "-c", script, "sh", *arguments], stdin=stdin, timeout=LIMIT)
        except TimeoutError:
            raise ReachError(f"{self.where}: its machine did not answer within {LIMIT:g} s.") from None

    def _failure(self, verb: str, done: Completed) -> ReachError:
        words = first_words(done.stderr) or f"status {done.status}"
        return ReachError(f"{self.where} cannot be {verb}: {words}", "Who logs in there must have the right to.")


class VolumeFile:
    """A file of a Docker volume; its owner and rights are kept."""

    def __init__(self, docker: DockerRuntime, volume: str, path: str) -> None:
        self._docker, self._volume, self._path = docker, volume, path
        self.where = f"{path} in the volume {volume}"

    async def read(self) -> bytes | None:
        """What is in it."""
        found = await self._member(self._path)
        return found[1] if found else None

    async def kept(self) -> bytes | None:
        """What was kept of it."""
        found = await self._member(self._path + KEPT)
        return found[1] if found else None

    async def keep(self) -> None:
        """Keep a copy of it, with its rights."""
        info, content = await self._there()
        await self._put(self._path + KEPT, info, content)

    async def write(self, content: bytes) -> None:
        """Put it there; whoever writes must read it back, for Docker unpacks it in place."""
        info, _ = await self._there()
        await self._put(self._path, info, content)

    async def remove(self) -> None:
        """Remove it, by the `rm` of a running container that has the volume: Docker itself takes no file away."""
        id, folder = await self._holder()
        try:
            done = await DockerStore(self._docker).run(id, ["rm", "-f", posixpath.join(folder, self._path)])
        except ReachError as error:
            raise ReachError(f"{self.where} cannot be removed: {error.message}", "Remove it by hand.") from None
        if done.status:
            raise ReachError(f"{self.where} cannot be removed: {first_words(done.words)}", "Remove it by hand.")

    async def _there(self) -> tuple[tarfile.TarInfo, bytes]:
        found = await self._member(self._path)
        if found is None:
            raise ReachError(f"There is no {self.where} yet.", "Put a first one there: docker cp FILE CONTAINER:PATH")
        return found

    async def _member(self, path: str) -> tuple[tarfile.TarInfo, bytes] | None:
        id, folder = await self._holder()
        packed = await self._docker.packed(id, posixpath.join(folder, path), MOST)
        if packed is None:
            return None
        try:
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
                info = tar.next()
                file = tar.extractfile(info) if info is not None and info.isreg() else None
                if info is None or file is None:
                    raise ReachError(f"{self.where} is no file.")
                return info, file.read()
        except tarfile.TarError:
            raise ReachError(f"{self.where}: Docker sent an archive that makes no sense.") from None

    async def _put(self, path: str, like: tarfile.TarInfo, content: bytes) -> None:
        id, folder = await self._holder()
        info = tarfile.TarInfo(posixpath.basename(path))
        info.size, info.mode, info.mtime = len(content), like.mode, like.mtime
        info.uid, info.gid = like.uid, like.gid
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.addfile(info, io.BytesIO(content))
        await self._docker.unpack(id, posixpath.dirname(posixpath.join(folder, path)), packed.getvalue())

    async def _holder(self) -> tuple[str, str]:
        holders: Sequence[tuple[str, str]] = await self._docker.holders(self._volume)
        if not holders:
            raise ReachError(f"No container has the volume {self._volume}.", "Name the one that the gateway has.")
        return holders[0]
