"""Learned figures of memory, in the state directory: what engines said they took, and what drivers keep beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from backends.memory.estimate import CONTEXT_BYTES
from backends.memory.settings import Settings
from backends.memory.spoken import Spoken
from backends.paths import private_copy

KEEP: Final = 5
"""How many starts are kept of each overhead; the largest is what counts, so that nothing is promised too small."""

MOST: Final = 500
"""Observations that are kept, the latest of all containers."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What an engine said of itself at a start of the container `id` with these settings.

    `said` is None where its log told nothing; `file` is where its model lies, as far as that is known.
    """

    node: str
    container: str
    id: str
    start: str
    file: str | None
    settings: Settings
    said: Spoken | None


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the driver of a GPU keeps for each process beside the engine's own buffers, MiB by start."""

    node: str
    gpu: str
    backend: str
    build: str
    starts: tuple[tuple[str, float], ...] = ()

    @property
    def mib(self) -> float:
        """The most of what was seen."""
        return max((mib for _, mib in self.starts), default=0.0)


@dataclass(frozen=True, slots=True)
class _Kept:
    observations: tuple[Observation, ...] = ()
    overheads: tuple[Overhead, ...] = ()


@cache
def _adapter() -> TypeAdapter[_Kept]:
    """What reads and writes them; made once, since that takes longer than all of its work."""
    return TypeAdapter(_Kept)


class Figures:
    """All that was learned; without a state directory it is forgotten with the run.

    Methods that change something write the file and may raise OSError; who must not block calls them in a thread.
    """

    def __init__(self, state_dir: Path | None = None) -> None:
        self._path = state_dir / "memory.json" if state_dir else None
        self._kept = _Kept()
        self._read: int | None = None

    def refresh(self) -> None:
        """Take in what another process has written since."""
        if self._path is None:
            return
        try:
            written = self._path.stat().st_mtime_ns
            if written != self._read:
                self._kept = _adapter().validate_json(self._path.read_bytes())
        except (OSError, ValueError):  # there is none yet, or it is damaged: then it is learned anew
            written, self._kept = None, _Kept()
        self._read = written

    @property
    def observations(self) -> tuple[Observation, ...]:
        """All of them, the latest last."""
        return self._kept.observations

    @property
    def overheads(self) -> tuple[Overhead, ...]:
        """All of them."""
        return self._kept.overheads

    def observation(self, node: str, id: str) -> Observation | None:
        """What the container of that id said at its latest start."""
        return next((each for each in self.observations if (each.node, each.id) == (node, id)), None)

    def overhead(self, node: str, gpu: str = "", backend: str = "", build: str = "") -> Overhead | None:
        """The largest on a node that agrees with as much of the rest as was ever seen; "" is "any"."""
        found = [each for each in self.overheads if each.node == node]
        for agrees in (
            lambda each: gpu in ("", each.gpu),
            lambda each: backend in ("", each.backend),
            lambda each: build in ("", each.build),
        ):
            found = list(filter(agrees, found)) or found
        return max(found, key=lambda each: each.mib, default=None)

    def driver(self, node: str, gpu: str = "", backend: str = "", build: str = "") -> int:
        """The same in bytes; while nothing was learned, the most that is known of any driver."""
        learned = self.overhead(node, gpu, backend, build)
        return int(learned.mib * (1 << 20)) if learned else CONTEXT_BYTES

    def observe(self, observation: Observation) -> None:
        """Keep what a container said instead of what it said before."""
        self.refresh()
        others = (o for o in self.observations if (o.node, o.id) != (observation.node, observation.id))
        self._keep(replace(self._kept, observations=(*others, observation)[-MOST:]))

    def learn(self, key: Overhead, start: str, mib: float) -> None:
        """Keep what a driver kept at one more start; of the same start the latest counts."""
        self.refresh()

        def same(each: Overhead) -> bool:
            return replace(each, starts=()) == replace(key, starts=())

        before = next((each for each in self.overheads if same(each)), key)
        starts = (*((name, size) for name, size in before.starts if name != start), (start, round(mib, 1)))
        others = tuple(each for each in self.overheads if not same(each))
        self._keep(replace(self._kept, overheads=(*others, replace(key, starts=starts[-KEEP:]))))

    def forget(self, node: str | None = None) -> int:
        """Forget what was learned of a node (None: of all); how many figures that were."""
        self.refresh()
        observations = tuple(each for each in self.observations if node not in (None, each.node))
        overheads = tuple(each for each in self.overheads if node not in (None, each.node))
        gone = len(self.observations) + len(self.overheads) - len(observations) - len(overheads)
        if gone:
            self._keep(_Kept(observations, overheads))
        return gone

    def _keep(self, kept: _Kept) -> None:
        self._kept = kept
        if self._path is not None:
            data = _adapter().dump_python(kept, mode="json")
            private_copy(self._path, json.dumps({"version": 1, **data}))
            self._read = self._path.stat().st_mtime_ns
