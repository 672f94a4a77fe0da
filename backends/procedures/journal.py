"""The journal of a procedure: append-only JSON lines that are its memory and the wire it is followed on.

Whether its runner lives is asked of the kernel: the runner keeps the file taken (flock) until it ends, however.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from backends.clock import Clock, SystemClock
from backends.cluster.reading import ProcedureState
from backends.errors import ProcedureError
from backends.procedures.events import StepEvent, fold, parse
from backends.procedures.lock import is_taken, private_folder, take

KEEP: Final = 50
"""How many ended procedures are kept."""

MOST_OUTPUT: Final = 2 << 20
"""Bytes of a journal beyond which output is left out; starts and ends of steps never are."""

LONGEST_LINE: Final = 16 << 10
"""Bytes of the longest output line that is kept whole."""

PACE: Final = 0.1
"""Seconds between two looks of a follower at the file's size."""

RESERVE: Final = 4096
"""Bytes that are kept for the last word on a full disk."""

LINGER: Final = 20.0
"""Seconds for which a follower waits after the last word until the runner has given the node back."""

_CHUNK: Final = 64 << 10
_ID: Final = re.compile(r"[0-9a-z][0-9a-z-]{0,63}")


def folder(state_dir: Path) -> Path:
    """Where the journals lie."""
    return state_dir / "procedures"


def journal_path(state_dir: Path, procedure: str) -> Path:
    """The journal of one procedure; ProcedureError for what cannot be the name of one."""
    if not _ID.fullmatch(procedure):
        raise ProcedureError(f'"{procedure[:80]}" is no procedure.', "List them: tierdeck procedures")
    return folder(state_dir) / f"{procedure}.jsonl"


class Journal:
    """The writing end, of which there is one: its runner."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path
        self._size = os.fstat(fd).st_size
        self._full = self._size >= MOST_OUTPUT
        self._broken: ProcedureError | None = None

    def write(self, event: StepEvent) -> None:
        """Append `event`; all but output is on disk on return.

        ProcedureError where it cannot be written: the procedure is halted, and nothing more is written.
        """
        if self._broken is not None:
            raise self._broken
        line = _line(event)
        if event.event == "output":
            if self._full:
                return
            if self._size + len(line) > MOST_OUTPUT:
                self._full = True
                line = _line(replace(event, detail={"text": "further output is left out: the journal is full"}))
        try:
            self._append(line, sync=event.event != "output")
        except OSError as error:
            self._broken = ProcedureError(
                f"The journal {self.path} cannot be written: {error.strerror or error}.",
                f"Nothing more was begun. Make room, then: tierdeck procedures resume {event.procedure}",
            )
            self._halt(event)
            raise self._broken from error

    def _append(self, line: bytes, *, sync: bool) -> None:
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                written += os.write(self._fd, line[written:])
            if sync:
                os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def _halt(self, event: StepEvent) -> None:
        """The last word, in the room that was kept for it; where even that fails, followers see the runner end."""
        reserve_path(self.path).unlink(missing_ok=True)
        why: JsonValue = {"text": str(self._broken)}
        with suppress(OSError):
            self._append(_line(StepEvent(event.at, event.procedure, "finished", None, why, "halted")), sync=True)


def reserve_path(path: Path) -> Path:
    """The file that keeps room for the last word of a journal."""
    return path.with_suffix(".reserve")


@contextmanager
def _reserved(path: Path) -> Iterator[None]:
    """Keep room for the last word while the journal is written."""
    reserve = reserve_path(path)
    try:
        try:
            reserve.write_bytes(bytes(RESERVE))
        except OSError as error:
            raise ProcedureError(
                f"There is no room for the journal {path}: {error.strerror or error}.", "Nothing was begun. Make room."
            ) from error
        yield
    finally:
        reserve.unlink(missing_ok=True)


def _line(event: StepEvent) -> bytes:
    line = json.dumps(event.to_json(), separators=(",", ":")).encode() + b"\n"
    if event.event == "output" and len(line) > LONGEST_LINE:
        cut = event.text[:1000] or "output"
        return _line(replace(event, detail={"text": f"{cut} ... ({len(line)} bytes left out)"}))
    return line


@contextmanager
def create(state_dir: Path, procedure: str) -> Iterator[Journal]:
    """A new journal, taken by this process."""
    path = journal_path(state_dir, procedure)
    private_folder(path.parent)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    except OSError as error:
        raise ProcedureError(f"The journal {path} cannot be made: {error.strerror or error}.") from error
    try:
        if not take(fd):
            raise ProcedureError(f"The journal {path} is taken by another process.")
        with _reserved(path):
            _sync_folder(path.parent)
            yield Journal(fd, path)
    finally:
        if not os.fstat(fd).st_size:
            path.unlink(missing_ok=True)  # nothing was said, so nothing happened
        os.close(fd)


@contextmanager
def reopen(state_dir: Path, procedure: str) -> Iterator[Journal]:
    """A journal whose runner has ended, taken by this process to go on; a torn last line is cut off."""
    path = journal_path(state_dir, procedure)
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        raise ProcedureError(f"There is no procedure {procedure}.", "List them: tierdeck procedures") from None
    try:
        if not take(fd):
            raise ProcedureError(
                f"Procedure {procedure} still runs.", f"Follow it: tierdeck procedures attach {procedure}"
            )
        os.ftruncate(fd, path.read_bytes().rfind(b"\n") + 1)
        with _reserved(path):
            yield Journal(fd, path)
    finally:
        os.close(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Reader:
    """The reading end: what was appended since the last look, by whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self, limit: int = _CHUNK) -> tuple[list[StepEvent], bool]:
        """The next events within `limit` bytes, and whether the runner lived before they were read."""
        with self.path.open("rb") as file:
            alive = is_taken(file.fileno())
            file.seek(self._offset)
            raw = file.read(limit)
            while b"\n" not in raw and (more := file.read(limit)):
                raw += more
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := parse(line)) is not None], alive


def is_running(path: Path) -> bool:
    """Whether the runner of a journal lives; FileNotFoundError where there is none."""
    with path.open("rb") as file:
        return is_taken(file.fileno())


def read_events(path: Path) -> list[StepEvent]:
    """All events of a journal; ProcedureError where there is none."""
    try:
        return Reader(path).read(1 << 30)[0]
    except FileNotFoundError:
        raise ProcedureError(f"There is no procedure {path.stem}.", "List them: tierdeck procedures") from None


async def follow(path: Path, clock: Clock | None = None) -> AsyncGenerator[StepEvent, None]:
    """Every event from the first on, as they come, until it finished; `lost` where its runner died before.

    It ends when the runner has given the node back.
    """
    clock = clock or SystemClock()
    reader = Reader(path)
    last: StepEvent | None = None
    lingered = 0.0
    while True:
        try:
            events, alive = reader.read()
        except FileNotFoundError:
            raise ProcedureError(f"There is no procedure {path.stem}.", "List them: tierdeck procedures") from None
        for event in events:
            last = event
            yield event
        if events:
            await asyncio.sleep(0)
        elif last is not None and last.event == "finished":
            if not alive or lingered >= LINGER:
                return
            lingered += PACE
            await clock.sleep(PACE)
        elif not alive:
            text = f"its runner ended without a word; go on with: tierdeck procedures resume {path.stem}"
            yield StepEvent(clock.now().wall, path.stem, "lost", detail={"text": text})
            return
        else:
            await clock.sleep(PACE)


@dataclass(slots=True)
class _Shelved:
    reader: Reader
    signature: tuple[int, int] = (0, 0)
    state: ProcedureState | None = None


class Shelf:
    """All journals of a state directory; reads only what was appended since the last look."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = folder(state_dir)
        self._known: dict[Path, _Shelved] = {}
        self._one_reader = threading.Lock()

    def read(self) -> tuple[ProcedureState, ...]:
        """Every procedure, the newest first; from any thread."""
        with self._one_reader:
            paths = list(self._folder.glob("*.jsonl"))
            self._known = {path: self._known.get(path) or _Shelved(Reader(path)) for path in paths}
            found = [self._look(path) for path in paths]
        return tuple(sorted((s for s in found if s is not None), key=lambda s: s.started, reverse=True))

    def _look(self, path: Path) -> ProcedureState | None:
        known = self._known[path]
        try:
            stat = path.stat()
            settled = known.state is not None and not known.state.open
            if (stat.st_size, stat.st_mtime_ns) == known.signature and settled:
                return known.state
            events, alive = known.reader.read(1 << 30)
        except FileNotFoundError:
            return None
        known.signature = (stat.st_size, stat.st_mtime_ns)
        for event in events:
            known.state = fold(known.state, event)
        if known.state is not None and known.state.open and not alive:
            return fold(known.state, StepEvent(0.0, known.state.id, "lost"))
        return known.state


def read_state(path: Path) -> ProcedureState:
    """The state of one procedure, from its journal and whether its runner lives; ProcedureError where it has none."""
    try:
        events, alive = Reader(path).read(1 << 30)
    except FileNotFoundError:
        events, alive = [], False
    state: ProcedureState | None = None
    for event in events:
        state = fold(state, event)
    if state is None:
        raise ProcedureError(f"There is no procedure {path.stem}.", "List them: tierdeck procedures")
    return state if alive or not state.open else fold(state, StepEvent(0.0, state.id, "lost")) or state


def list_procedures(state_dir: Path) -> tuple[ProcedureState, ...]:
    """Every procedure, the newest first; keep a `Shelf` to ask often."""
    return Shelf(state_dir).read()


def prune(state_dir: Path, keep: int = KEEP) -> None:
    """Remove all but the newest `keep` procedures that ended."""
    for state in [s for s in list_procedures(state_dir) if not s.open][keep:]:
        for path in folder(state_dir).glob(f"{state.id}.*"):
            path.unlink(missing_ok=True)
