"""Plays incidents to a recorder, as the live cluster would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backends.cluster.fold import empty, fold_all
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Instant, ProbeResult, Reading, Tick
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.history.recorder import Recorder
from backends.history.store import Writer
from tests.tui.sample import loaded, readings

WALL = 1_795_249_964.0


def at(seconds: float) -> Instant:
    return Instant(WALL + seconds, seconds)


def probe(cause: Cause, seconds: float, name: str = "local/ollama") -> EndpointReading:
    return EndpointReading(name, at(seconds), ProbeResult(cause, f"{cause} at {seconds}", 0.01), 5.0)


class Live:
    """Folds batches as the live cluster does, and records them."""

    def __init__(self, recorder: Recorder, inventory: Inventory | None = None) -> None:
        self.inventory = inventory or loaded().inventory
        self.recorder = recorder
        self.seen = empty(self.inventory, "desk")
        self.all: list[ClusterSnapshot] = []

    def __call__(self, seconds: float, *found: Reading) -> None:
        before, batch = self.seen, [*found, Tick(at(seconds))]
        self.seen = fold_all(self.inventory, before, batch)
        self.recorder.take(batch, before, self.seen)
        if self.seen != before:
            self.all.append(self.seen)


@contextmanager
def live(path: Path, told: list[str] | None = None, make: Callable[[Path], Writer] = Writer) -> Iterator[Live]:
    said = told if told is not None else []
    recorder = Recorder(path, loaded().inventory, lambda text: said.append(text) if text else None, open=make)
    try:
        yield Live(recorder)
    finally:
        finish(recorder)


def finish(recorder: Recorder) -> None:
    """Close it, and wait for what a busy machine has not written by then."""
    recorder.close()
    recorder._thread.join(20.0)
    assert not recorder._thread.is_alive()


def incident(play: Live, begin: float = 0.0) -> None:
    """All read, one refuses for a while, and comes back."""
    play(begin, *(replace(reading, at=at(begin)) for reading in readings()))
    for i in range(1, 60):
        cause = Cause.REFUSED if 20 <= i < 40 else Cause.OK
        play(begin + 5.0 * i, probe(cause, begin + 5.0 * i))
