"""One procedure per node at a time, on this machine: a lock that the kernel gives back however its owner ends.

The file says who holds it and since when; whether it is held is asked of the kernel (flock), never inferred from a
process number, so a reused number, a zombie or a crash leaves no stale lock. The file itself stays: removing it
would let two owners hold two files of one name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backends.errors import ProcedureError

HEARTBEAT: Final = 5.0
"""Seconds between two signs of life of an owner."""

_TRIES: Final = 25
_PAUSE: Final = 0.02  # somebody who only looks holds the lock for microseconds


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a node: `owner` is user@host:pid; `since` and `beat` (its last sign of life) are Unix seconds."""

    owner: str
    procedure: str
    since: float
    beat: float = 0.0


def private_folder(path: Path) -> Path:
    """A folder of ours alone (0700), made if it is missing."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def take(fd: int) -> bool:
    """Take the file for this process until it closes it or ends; False where another has it."""
    for _ in range(_TRIES):
        if _lock(fd, fcntl.LOCK_EX):
            return True
        time.sleep(_PAUSE)
    return False


def is_taken(fd: int) -> bool:
    """Whether another process has taken the file."""
    if not _lock(fd, fcntl.LOCK_SH):
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ProcedureError(
            f"The state directory cannot keep locks: {error.strerror or error}.",
            "Put it on a local disk: export TIERDECK_STATE=...",
        ) from error
    return True


def lock_path(state_dir: Path, node: str) -> Path:
    """Where the lock of `node` lies, whatever characters its name has."""
    name = quote(node, safe="")
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(node.encode()).hexdigest()[:16]}"
    return state_dir / "locks" / f"{name}.lock"


def holder(state_dir: Path, node: str) -> Holder | None:
    """Who holds `node` now; None where nobody does."""
    try:
        fd = os.open(lock_path(state_dir, node), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _read(fd) if is_taken(fd) else None
    finally:
        os.close(fd)


def refuse_if_held(state_dir: Path, node: str, now: float) -> None:
    """ProcedureError naming owner and age where another procedure holds `node`."""
    if (found := holder(state_dir, node)) is not None:
        raise _busy(node, found, now)


@dataclass(frozen=True, slots=True)
class NodeLock:
    """A held lock."""

    fd: int

    def beat(self) -> None:
        """Give a sign of life."""
        os.utime(self.fd)


@contextmanager
def hold(state_dir: Path, node: str, *, owner: str, procedure: str, now: float) -> Iterator[NodeLock]:
    """Hold `node` for `procedure`; ProcedureError naming owner and age where another has it."""
    path = lock_path(state_dir, node)
    private_folder(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not take(fd):
            raise _busy(node, _read(fd), now)
        content = json.dumps(asdict(Holder(owner, procedure, now, now)))
        os.ftruncate(fd, 0)
        os.pwrite(fd, content.encode(), 0)
        yield NodeLock(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> Holder:
    try:
        data = json.loads(os.pread(fd, 4096, 0))
        return Holder(str(data["owner"]), str(data["procedure"]), float(data["since"]), os.fstat(fd).st_mtime)
    except (ValueError, KeyError, TypeError):  # taken, and about to be written
        return Holder("another process", "", os.fstat(fd).st_mtime, os.fstat(fd).st_mtime)


def _busy(node: str, found: Holder, now: float) -> ProcedureError:
    held = f"{found.owner} has held {node} for {max(0, round(now - found.since))} s"
    silent = now - found.beat
    pulse = f" and gave no sign of life for {round(silent)} s" if silent > 3 * HEARTBEAT else ""
    doing = f" with procedure {found.procedure}" if found.procedure else ""
    advice = f"Follow it: tierdeck procedures attach {found.procedure}" if found.procedure else "Try again."
    return ProcedureError(f"{held}{doing}{pulse}; one procedure per node at a time.", advice)
