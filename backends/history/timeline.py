"""Standing somewhere in a recorded history, and moving through its changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from backends.errors import HistoryError
from backends.history.moments import Moment
from backends.history.recording import Past, Recording
from backends.history.store import Recorded

CHANGES: Final = frozenset({"endpoint", "tier", "node"})
"""The kinds of moments that are changes of the cluster, not steps of a procedure."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A place to stand: everything that was told at one moment."""

    told: tuple[Recorded, ...]

    @property
    def at(self) -> float:
        """When that was, in Unix seconds."""
        return self.told[-1].moment.at

    @property
    def is_change(self) -> bool:
        """Whether the cluster changed then."""
        return any(recorded.moment.kind in CHANGES for recorded in self.told)


def stops(told: Sequence[Recorded]) -> list[Stop]:
    """The moments of a history, those of one snapshot together."""
    return [Stop(tuple(each)) for _, each in groupby(told, key=lambda r: (r.checkpoint, r.place))]


class Timeline:
    """Owns a recording; stands at its latest change when it is made. `past` blocks, as making it does."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.stops = stops(recording.moments())
        self.index = len(self.stops) - 1
        if not self.stops:
            recording.close()
            raise HistoryError("Nothing has changed since it is recorded.", "The first change can be gone back to.")

    @property
    def here(self) -> Stop:
        """Where one stands."""
        return self.stops[self.index]

    def move(self, step: int, *, changes: bool = False) -> bool:
        """Go to the next stop (+1) or the one before (-1), over steps if asked; whether there is one."""
        index = self.index + step
        while changes and 0 <= index < len(self.stops) and not self.stops[index].is_change:
            index += step
        if not 0 <= index < len(self.stops):
            return False
        self.index = index
        return True

    def past(self) -> Past:
        """The whole cluster where one stands."""
        return self._recording.at(self.here.told[-1])

    def told(self, most: int) -> list[Moment]:
        """What was told up to where one stands, oldest first, the latest `most`."""
        return [r.moment for stop in self.stops[: self.index + 1][-most:] for r in stop.told][-most:]

    def close(self) -> None:
        """Close the recording."""
        self._recording.close()
