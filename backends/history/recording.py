"""Reading what was recorded: the lines of history, and the whole cluster as it was at each of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic import ValidationError

from backends.cluster.fold import fold_all
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Instant, Reading
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Verdict
from backends.errors import HistoryError
from backends.history.codec import decode_reading, decode_snapshot, source_of
from backends.history.moments import Moment
from backends.history.store import TABLES, VERSION, Recorded, connect, unpack

MOST: Final = 10_000
"""Lines of history that are read at once."""


SEARCHED: Final = 90
"""Checkpoints (three hours) in which it is looked for when something last worked."""


@dataclass(frozen=True, slots=True)
class Past:
    """The whole cluster at one moment, and the inventory that was right then."""

    inventory: Inventory
    snapshot: ClusterSnapshot


class Recording:
    """The reading end of a history; blocks, so it belongs into a thread. HistoryError says what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            self._connection = connect(path, write=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def moments(self, *, since: float = 0.0, subject: str | None = None, steps: bool = True) -> list[Recorded]:
        """The lines of history since a moment (Unix seconds), oldest first; of several thousand the latest."""
        rows = self._rows(
            "SELECT id, checkpoint, place, at, kind, subject, word, text FROM moments "
            "WHERE at >= ? AND (? IS NULL OR subject = ?) AND (? OR kind != 'step') ORDER BY id DESC LIMIT ?",
            since, subject, subject, steps, MOST,
        )  # fmt: skip
        return [Recorded(id, checkpoint, place, Moment(*rest)) for id, checkpoint, place, *rest in reversed(rows)]

    def at(self, recorded: Recorded) -> Past:
        """The cluster as it was when that line of history was written."""
        past, readings = self.course(recorded.checkpoint)
        return _after(past, readings[: recorded.place])

    def latest(self) -> Past:
        """The cluster as it was last recorded."""
        rows = self._rows("SELECT id FROM checkpoints ORDER BY id DESC LIMIT 1")
        if not rows:
            raise HistoryError(f"Nothing is recorded yet in {self.path}.", "The console and tierdeck watch record.")
        past, readings = self.course(rows[0][0])
        return _after(past, readings)

    def fall(self, endpoint: str) -> list[Recorded]:
        """The changes of an endpoint since it last stopped being UP, oldest first; none where it never did."""
        found: list[Recorded] = []
        for recorded in reversed(self.moments(subject=endpoint)):
            ill = recorded.moment.word != "UP"
            if not ill and any(r.moment.word != "UP" for r in found):
                break
            found.append(recorded)
        found.reverse()
        return found if any(r.moment.word != "UP" for r in found) else []

    def last_up(self, endpoint: str, before: Recorded) -> Past | None:
        """The cluster at the last reading that found `endpoint` well before a line of history; None if too long ago."""
        rows = self._rows(
            "SELECT id FROM checkpoints WHERE id <= ? ORDER BY id DESC LIMIT ?", before.checkpoint, SEARCHED
        )
        for (checkpoint,) in rows:
            past, readings = self.course(checkpoint)
            end = before.place if checkpoint == before.checkpoint else len(readings)
            found = _last_up(past, readings[:end], endpoint)
            if found is not None:
                return found
        return None

    def course(self, checkpoint: int) -> tuple[Past, list[Reading | None]]:
        """A checkpoint, and what was read after it."""
        rows = self._rows(
            "SELECT snapshot, data FROM checkpoints JOIN inventories ON inventory = inventories.id "
            "WHERE checkpoints.id = ?",
            checkpoint,
        )
        if not rows:
            raise HistoryError("That part of the history is gone.", "It is kept for two weeks.")
        packed = self._rows("SELECT data FROM readings WHERE checkpoint = ? ORDER BY id", checkpoint)
        try:
            past = Past(Inventory.model_validate(json.loads(rows[0][1])), decode_snapshot(unpack(rows[0][0])))
            return past, _readings([entry for (blob,) in packed for entry in unpack(blob)])
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            words = str(error).partition("\n")[0]
            raise HistoryError(f"A part of this history is damaged ({words}).") from None

    def export(self, target: Path, *, since: float = 0.0) -> int:
        """Copy what was recorded since a moment into a file of its own; how many lines of history that is."""
        if target.exists():
            raise HistoryError(f"{target} exists already.", "Name another file.")
        with self._told(), _fresh(target) as made:
            made.execute("ATTACH ? AS source", (self._connection.execute("PRAGMA database_list").fetchone()[2],))
            made.execute("BEGIN")
            first = "(SELECT coalesce(max(id), 0) FROM source.checkpoints WHERE at <= ?)"
            made.execute(f"INSERT INTO checkpoints SELECT * FROM source.checkpoints WHERE id >= {first}", (since,))
            ours = "(SELECT inventory FROM checkpoints)"
            made.execute(f"INSERT INTO inventories SELECT * FROM source.inventories WHERE id IN {ours}")
            for table in ("readings", "moments"):
                made.execute(
                    f"INSERT INTO {table} SELECT * FROM source.{table} WHERE checkpoint IN (SELECT id FROM checkpoints)"
                )
            made.execute("COMMIT")
            return int(made.execute("SELECT count(*) FROM moments").fetchone()[0])

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._told():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise HistoryError(f"{self.path} cannot be read: {error}.", "Is it a history of tierdeck?") from None


def _after(past: Past, readings: Sequence[Reading | None]) -> Past:
    known = [reading for reading in readings if reading is not None]
    return Past(past.inventory, fold_all(past.inventory, past.snapshot, known))


def _last_up(past: Past, readings: Sequence[Reading | None], endpoint: str) -> Past | None:
    """The state after the last reading of `endpoint` that found it well; the checkpoint itself may be that."""

    def well(each: Past) -> bool:
        state = each.snapshot.endpoints.get(endpoint)
        return state is not None and state.verdict is Verdict.UP and not state.fails and state.taken is not None

    found = past if well(past) else None
    waiting: list[Reading | None] = []
    for reading in readings:
        waiting.append(reading)
        if isinstance(reading, EndpointReading) and reading.endpoint == endpoint:
            past, waiting = _after(past, waiting), []
            found = past if well(past) else found
    return found


@contextmanager
def _fresh(target: Path) -> Iterator[sqlite3.Connection]:
    """A new file with our tables, for our eyes only; nothing stays of one that could not be finished."""
    try:
        target.touch(0o600, exist_ok=False)
    except OSError as error:
        raise HistoryError(f"{target} cannot be written: {error.strerror or error}.") from None
    made = sqlite3.connect(target, isolation_level=None)
    try:
        made.executescript(f"{TABLES} PRAGMA user_version = {VERSION};")
        yield made
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise
    finally:
        made.close()


def _readings(entries: Sequence[Any]) -> list[Reading | None]:
    """The readings of a checkpoint, in their order; a bare time repeats what its source said last.

    None stands for one of a kind that this version does not know.
    """
    last: dict[str, Reading | None] = {}
    procedures: dict[str, Any] = {}
    found: list[Reading | None] = []
    for entry in entries:
        if isinstance(entry, list):
            key, wall, mono = entry
            reading = last[key]
            reading = None if reading is None else replace(reading, at=Instant(float(wall), float(mono)))
        else:
            if "procedures" in entry:
                told = [procedures[p] if isinstance(p, str) else p for p in entry["procedures"]]
                procedures = {p["id"]: p for p in told}
                entry = entry | {"procedures": told}
            reading = decode_reading(entry)
            key = source_of(reading) if reading is not None else ""
        last[key] = reading
        found.append(reading)
    return found
