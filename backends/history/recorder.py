"""Records what a live cluster reads, in a thread of its own: the console never waits for the disk.

One process records a cluster at a time, by a lock that the kernel gives back however it ends; the others read, and
one of them goes on where it ended. A full disk, a corrupt file or one that may not be written costs history only.
"""

from __future__ import annotations

import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.reading import ProcedureReading, Reading
from backends.cluster.snapshot import ClusterSnapshot
from backends.errors import HistoryError
from backends.history.codec import procedures_text, reading_text, snapshot_pieces, source_of, text_of
from backends.history.moments import Moment, moments
from backends.history.store import Writer, inventory_text, set_aside

FLUSH_EVERY: Final = 5.0
"""Seconds of readings that a killed console loses at most; what changed a verdict is on disk at once."""

CHECKPOINT_EVERY: Final = 120.0
"""Seconds between two whole snapshots."""

CHECKPOINT_AFTER: Final = 4000
"""Readings after which the next whole snapshot is kept, however soon."""

EACH: Final = 12
"""Where there are many endpoints, readings of each after which that is so."""

DRAWS: Final = 0.1
"""Seconds that the panes have for drawing what was read, before it is recorded."""

PIECES: Final = 20
"""Pieces of a snapshot, at 50 us each, after which its making pauses."""

REST: Final = 0.004
"""Seconds of such a pause."""

RETRY: Final = 15.0
"""Seconds after which the lock, or a disk that was full, is tried again."""

WAITING: Final = 2000
"""Batches that wait for a slow disk at most; what is beyond is left out, counted and told."""

CLOSING: Final = 2.0
"""Seconds that the end of a console waits for the disk."""


@dataclass(frozen=True, slots=True)
class _Batch:
    inventory: Inventory
    readings: tuple[Reading, ...]
    before: ClusterSnapshot
    after: ClusterSnapshot


class Recorder:
    """Owns the thread, the lock and the writing end; `say` is called from the thread with what a person should know."""

    def __init__(
        self, path: Path, inventory: Inventory, say: Callable[[str], object], *, open: Callable[[Path], Writer] = Writer
    ) -> None:
        self._path = path
        self._inventory = self._next = inventory
        self._say = say
        self._open = open
        self._queue: queue.Queue[_Batch | None] = queue.Queue(WAITING)
        self._ending = threading.Event()
        self._dropped = 0  # readings, counted by take() alone
        self._told_dropped = 0
        self._lost = self._at_work = 0
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._lock: int | None = None
        self._writer: Writer | None = None
        self._written: tuple[Inventory, str] | None = None
        self._checkpoint = 0
        self._begun = self._flushed = self._not_before = float("-inf")
        self._count = 0
        self._entries: list[str] = []
        self._moments: list[tuple[int, Moment]] = []
        self._last: dict[str, Reading] = {}
        self._told = ""
        self._thread.start()

    def adopt(self, inventory: Inventory) -> None:
        """What is taken from now on is of another inventory."""
        self._next = inventory

    def take(self, readings: Sequence[Reading], before: ClusterSnapshot, after: ClusterSnapshot) -> None:
        """Record a batch that was folded; returns at once."""
        try:
            self._queue.put_nowait(_Batch(self._next, tuple(readings), before, after))
        except queue.Full:
            self._dropped += len(readings)

    def close(self) -> None:
        """Write what waits and end the thread; blocks for CLOSING seconds at most, so call it from another thread."""
        self._ending.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)  # wakes it
        self._thread.join(CLOSING)

    @property
    def records(self) -> bool:
        """Whether this process is the one that records."""
        return self._writer is not None

    def _run(self) -> None:
        try:
            while not (self._ending.is_set() and self._queue.empty()):
                try:
                    batch = self._queue.get(timeout=FLUSH_EVERY)
                except queue.Empty:
                    batch = None
                else:
                    self._ending.wait(DRAWS if self._queue.empty() else 0.0)
                self._guarded(self._flush if batch is None else partial(self._keep, batch))
            self._guarded(self._flush)
        finally:
            self._shut()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it; what the disk or the file refuses is told once, and tried anew later."""
        try:
            work()
        except sqlite3.Error as error:
            self._failing = True
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            self._shut()
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._put_aside()
            else:
                self._tell(f"History is not recorded: {error} ({self._path}). All else goes on; it is tried again.")
        except (OSError, HistoryError) as error:
            self._failing = True
            self._shut()
            self._tell(f"History is not recorded: {error}")

    def _put_aside(self) -> None:
        try:
            aside = set_aside(self._path)
        except OSError as error:
            self._tell(f"History is corrupt and cannot be set aside: {error}")
            return
        self._not_before = float("-inf")
        self._tell(f"The recorded history was corrupt; it lies in {aside} now, and a new one was begun.")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)

    def _keep(self, batch: _Batch) -> None:
        taken = batch.after.taken
        if taken is None:
            return
        self._at_work = len(batch.readings)
        if self._writer is None and not self._begin(taken.mono):
            self._lost += self._at_work if self._failing else 0  # else another process records them
            return
        assert self._writer is not None
        if batch.inventory != self._inventory:
            self._flush()
            self._inventory, self._checkpoint = batch.inventory, 0
        lost = self._all_lost()
        if lost:
            self._flush()
            self._checkpoint = 0  # what follows must not be folded onto what came before the gap
        enough = max(CHECKPOINT_AFTER, EACH * len(self._inventory.endpoints))
        if taken.mono >= self._begun + CHECKPOINT_EVERY or self._count >= enough or not self._checkpoint:
            self._flush()
            self._checkpoint = self._writer.checkpoint(taken.wall, self._inventory_text(), self._text(batch.before))
            self._begun, self._count = taken.mono, 0
            self._last.clear()
        if lost:
            self._tell_gap(lost, taken.wall)
        self._entries += [self._entry(reading) for reading in batch.readings]
        self._at_work = 0
        self._count += len(batch.readings)
        found = moments(batch.before, batch.after) if batch.before != batch.after else []
        self._moments += [(self._count, moment) for moment in found]
        if found or taken.mono >= self._flushed + FLUSH_EVERY:
            self._flush()
            self._flushed = taken.mono

    def _inventory_text(self) -> str:
        """The inventory as it is kept, made once."""
        if self._written is None or self._written[0] is not self._inventory:
            self._written = self._inventory, inventory_text(self._inventory)
        return self._written[1]

    def _text(self, snapshot: ClusterSnapshot) -> str:
        """A snapshot as it is kept, made with pauses: this thread shares Python's lock with who draws."""
        found = []
        for i, piece in enumerate(snapshot_pieces(snapshot)):
            found.append(piece)
            if i % PIECES == PIECES - 1:
                self._ending.wait(REST)
        return "".join(found)

    def _all_lost(self) -> int:
        """How many readings were left out, and not told of yet."""
        dropped = self._dropped
        self._lost += dropped - self._told_dropped
        self._told_dropped = dropped
        return self._lost

    def _tell_gap(self, lost: int, wall: float) -> None:
        self._lost -= lost
        text = f"{lost} readings were not recorded: the disk was full, slow or refused them"
        self._moments.append((0, Moment(wall, "gap", self._inventory.name, "UNKNOWN", text)))
        self._say(f"History is recorded again; {text}.")

    def _begin(self, now: float) -> bool:
        """Become the one that records, if nobody else is."""
        if now < self._not_before:
            return False
        self._not_before = now + RETRY
        if self._lock is None:
            self._lock = _take(self._path.with_suffix(".lock"))
        if self._lock is None:
            return False
        self._writer = self._open(self._path)
        return True

    def _entry(self, reading: Reading) -> str:
        """A reading as it is kept, as text; one that says what the last of its source said, as its time alone."""
        key = source_of(reading)
        last, self._last[key] = self._last.get(key), reading
        if last is not None and replace(reading, at=last.at) == last:
            return text_of([key, reading.at.wall, reading.at.mono])
        if isinstance(reading, ProcedureReading) and isinstance(last, ProcedureReading):
            return procedures_text(reading, last)
        return reading_text(reading)

    def _flush(self) -> None:
        if self._writer is None or not self._entries:
            return
        self._writer.add(self._checkpoint, self._last_wall(), self._entries, self._moments)
        self._entries, self._moments = [], []
        self._failing = False
        if self._told:
            self._tell("")

    def _last_wall(self) -> float:
        return max(reading.at.wall for reading in self._last.values())

    def _shut(self) -> None:
        """Give back file and lock; what was not written is left out."""
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.close()
        if self._lock is not None:
            os.close(self._lock)
        self._writer = self._lock = None
        self._checkpoint = 0
        self._lost += len(self._entries) + self._at_work
        self._at_work = 0
        self._entries, self._moments = [], []


def _take(path: Path) -> int | None:
    """Take the lock for this process; None where another has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd
