"""The file: one SQLite database for each cluster, in WAL mode, bounded by age and size.

A checkpoint is a whole snapshot; the readings that came after it are packed behind it, and each line of history
says behind how many of them it stands. So replay unpacks two minutes at most, and folds them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from backends.cluster.inventory import Inventory
from backends.errors import HistoryError
from backends.history.moments import Moment

VERSION: Final = 1
"""The version of the file's tables."""

KEEP_FOR: Final = 14 * 86400.0
"""Seconds for which history is kept."""

KEEP_BYTES: Final = 256 << 20
"""Bytes that the file may hold; what is oldest goes first."""

LONGEST: Final = 64 << 20
"""Bytes that one packed row may have unpacked; a hostile file must not fill the memory."""

TABLES: Final = """
CREATE TABLE inventories (id INTEGER PRIMARY KEY, data TEXT NOT NULL UNIQUE);
CREATE TABLE checkpoints (id INTEGER PRIMARY KEY, at REAL NOT NULL, inventory INTEGER NOT NULL, snapshot BLOB NOT NULL);
CREATE TABLE readings (id INTEGER PRIMARY KEY, checkpoint INTEGER NOT NULL, at REAL NOT NULL, data BLOB NOT NULL);
CREATE TABLE moments (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, checkpoint INTEGER NOT NULL, place INTEGER NOT NULL, kind TEXT NOT NULL,
    subject TEXT NOT NULL, word TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX readings_of ON readings (checkpoint);
CREATE INDEX moments_of ON moments (checkpoint);
CREATE INDEX moments_at ON moments (at);
"""
"""What a new file is made with."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A moment as it lies in the file: behind `place` readings of `checkpoint`."""

    id: int
    checkpoint: int
    place: int
    moment: Moment


def history_path(state_dir: Path, cluster: str, inventory: Path) -> Path:
    """Where the history of a cluster lies, whatever characters its name has; two of one name have two inventories."""
    which = hashlib.sha256(str(inventory.absolute()).encode()).hexdigest()[:8]
    return state_dir / f"history-{quote(cluster, safe='')[:80]}-{which}.sqlite3"


def pack(text: str) -> bytes:
    """JSON text as it lies in the file."""
    return zlib.compress(text.encode("utf-8", "replace"), 6)


def unpack(blob: bytes) -> Any:
    """The data of `pack`; HistoryError where it is damaged."""
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(blob, LONGEST)
        if unpacker.unconsumed_tail:
            raise ValueError("too long")
        return json.loads(text)
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise HistoryError(f"A part of this history is damaged ({error}).", "What is around it can be read.") from None


def inventory_text(inventory: Inventory) -> str:
    """An inventory as it is kept with the snapshots that were made of it."""
    data = inventory.model_dump(mode="json", exclude_defaults=True)
    for node in data.get("nodes", ()):
        if "vram" in node:
            node["vram"] = [f"{mib}MiB" for mib in node["vram"]]
    return json.dumps(data | {"version": 1, "name": inventory.name}, ensure_ascii=False, sort_keys=True)


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """An open file with the tables of this version; HistoryError names what is wrong with it, sqlite3.Error too."""
    if not write and not path.exists():
        raise HistoryError(f"Nothing is recorded yet: there is no {path}.", "The console and tierdeck watch record.")
    if write:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    mode = "rw" if write else "ro"
    made = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
    )
    try:
        found = made.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            raise HistoryError(f"{path} was written by a newer tierdeck.", "Use that one, or move the file away.")
        if write:
            _prepare(made, fresh=found == 0)
        elif found == 0:
            empty = made.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
            raise HistoryError(f"Nothing is recorded in {path} yet." if empty else f"{path} is no history of tierdeck.")
    except BaseException:
        made.close()
        raise
    return made


def _prepare(made: sqlite3.Connection, *, fresh: bool) -> None:
    if fresh:
        made.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"journal_size_limit = {1 << 20}"):
        made.execute(f"PRAGMA {pragma}").fetchall()
    if fresh:
        made.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")


def set_aside(path: Path) -> Path:
    """Move a corrupt file out of the way, with what belongs to it; where it lies now."""
    aside = path.with_suffix(".corrupt")
    os.replace(path, aside)
    for ending in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{ending}", f"{aside}{ending}")
    return aside


class Writer:
    """The writing end; every call is one transaction, and blocks: it belongs into a thread."""

    def __init__(self, path: Path, *, keep_for: float = KEEP_FOR, keep_bytes: int = KEEP_BYTES) -> None:
        self._keep_for = keep_for
        self._keep_bytes = keep_bytes
        self._connection = connect(path, write=True)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def checkpoint(self, at: float, inventory: str, snapshot: str) -> int:
        """Keep a whole snapshot (as JSON text), drop what is too old or too much; its number."""
        with self._transaction() as made:
            made.execute("INSERT OR IGNORE INTO inventories (data) VALUES (?)", (inventory,))
            row = made.execute("SELECT id FROM inventories WHERE data = ?", (inventory,)).fetchone()
            values = (at, row[0], pack(snapshot))
            made.execute("INSERT INTO checkpoints (at, inventory, snapshot) VALUES (?, ?, ?)", values)
            number = int(made.execute("SELECT last_insert_rowid()").fetchone()[0])
            made.execute("DELETE FROM checkpoints WHERE at < ? AND id < ?", (at - self._keep_for, number))
            self._sweep(made)
        self._shrink(number)
        return number

    def add(self, checkpoint: int, at: float, readings: Sequence[str], moments: Iterable[tuple[int, Moment]]) -> None:
        """Keep readings (as JSON text) that came behind a checkpoint, and moments, each behind how many of them all."""
        with self._transaction() as made:
            packed = pack(f"[{','.join(readings)}]")
            made.execute("INSERT INTO readings (checkpoint, at, data) VALUES (?, ?, ?)", (checkpoint, at, packed))
            made.executemany(
                "INSERT INTO moments (at, checkpoint, place, kind, subject, word, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(m.at, checkpoint, place, m.kind, m.subject, m.word, m.text) for place, m in moments],
            )

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)

    def _shrink(self, newest: int) -> None:
        """Drop the oldest tenth until the file holds no more than it may."""
        made = self._connection
        while self._used() > self._keep_bytes:
            (count,) = made.execute("SELECT count(*) FROM checkpoints WHERE id < ?", (newest,)).fetchone()
            if not count:
                break
            with self._transaction():
                made.execute(
                    "DELETE FROM checkpoints WHERE id IN (SELECT id FROM checkpoints WHERE id < ? ORDER BY id LIMIT ?)",
                    (newest, max(1, count // 10)),
                )
                self._sweep(made)
        made.execute("PRAGMA incremental_vacuum").fetchall()

    def _used(self) -> int:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @staticmethod
    def _sweep(made: sqlite3.Connection) -> None:
        for table in ("readings", "moments"):
            made.execute(f"DELETE FROM {table} WHERE checkpoint NOT IN (SELECT id FROM checkpoints)")
        made.execute("DELETE FROM inventories WHERE id NOT IN (SELECT inventory FROM checkpoints)")


class _Transaction:
    """All or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        if self._connection.in_transaction:  # SQLite itself rolls back on a full disk
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
