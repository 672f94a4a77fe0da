"""How old the newest thing at a path is, on this machine or on a node: what the age of a backup is told by.

Here a process of its own looks, for a dead network mount may hang whoever touches it; on a node SFTP does, without a
shell. Names that begin with a dot do not count: they are what file managers and sync tools leave behind.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, cast

from backends.errors import CommandError, ReachError

if TYPE_CHECKING:
    from asyncssh import SFTPName

    from backends.reach.local import LocalShell
    from backends.reach.ssh import SshLink

MOST: Final = 100_000
"""Entries of a folder that are looked at."""

_LOOK: Final = """
import itertools, json, os, stat, sys
path, most = os.path.expanduser(sys.argv[1]), int(sys.argv[2])
try:
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        with os.scandir(path) as entries:
            seen = [(e.stat(follow_symlinks=False).st_mtime, e.name) for e in itertools.islice(entries, most)
                    if not e.name.startswith(".")]
        at, name = max(seen, default=(0, ""))
        print(json.dumps([name, at, len(seen)]))
    else:
        print(json.dumps([os.path.basename(path), found.st_mtime, 1]))
except OSError as error:
    print(json.dumps(error.errno))
"""


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest entry: its name, when it was written (Unix seconds, by its machine's clock), of how many."""

    name: str
    at: float
    count: int


async def newest_here(shell: LocalShell, path: str, *, timeout: float) -> Newest:
    """The newest entry at a path of this machine; OSError as the system has it, TimeoutError where it hangs."""
    done = await shell.run([sys.executable, "-I", "-c", _LOOK, path, str(MOST)], timeout=timeout)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise CommandError(f"{path} could not be looked at: status {done.status}.") from None
    if isinstance(told, int):
        raise OSError(told, os.strerror(told))
    return Newest(str(told[0]), float(told[1]), int(told[2]))


async def newest_there(link: SshLink, path: str) -> Newest:
    """The same on a node, by SFTP; SshError where there is no connection. Who calls bounds it in time."""
    import asyncssh

    connection = await link.connection()
    try:
        async with connection.start_sftp_client() as sftp:
            path = _as_sftp(path)
            found = await sftp.stat(path)
            if not stat.S_ISDIR(found.permissions or 0):
                return Newest(PurePosixPath(path).name, float(found.mtime or 0), 1)
            newest, count = Newest("", 0.0, 0), 0
            async with aclosing(cast("AsyncGenerator[SFTPName, None]", sftp.scandir(path))) as entries:
                async for entry in entries:
                    name = (
                        entry.filename if isinstance(entry.filename, str) else entry.filename.decode(errors="replace")
                    )
                    if name.startswith("."):
                        continue
                    count += 1
                    if (entry.attrs.mtime or 0) >= newest.at:
                        newest = Newest(name, float(entry.attrs.mtime or 0), count)
                    if count >= MOST:
                        break
            return Newest(newest.name, newest.at, count)
    except asyncssh.SFTPNoSuchFile:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    except asyncssh.SFTPPermissionDenied:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
    except asyncssh.SFTPError as error:
        if not link.connected:
            raise link.dropped(error) from error
        raise ReachError(f"{link.target.node}: its SFTP server refuses: {error.reason}.") from error
    except asyncssh.ChannelOpenError as error:
        if not link.connected:
            raise link.dropped(error) from error
        raise ReachError(
            f"{link.target.node}: its SSH server offers no SFTP.", "Add Subsystem sftp internal-sftp to sshd_config."
        ) from error


def _as_sftp(path: str) -> str:
    """A path as SFTP has it: relative to the home, and Windows' drives under the root."""
    path = path.replace("\\", "/") if re.match(r"[A-Za-z]:", path) else path
    return f"/{path}" if re.match(r"[A-Za-z]:/", path) else path.removeprefix("~/")
