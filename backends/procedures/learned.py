"""What past starts took, container by container: seconds to ready and GPU memory, kept in the state directory."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pydantic import TypeAdapter

from backends.paths import private_copy

_Starts = dict[str, list[tuple[float, float | None]]]

KEEP: Final = 5
"""How many past starts are kept; their median is what is expected."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a start is expected to take: seconds to ready, MiB of GPU memory; None where it is not known."""

    seconds: float | None = None
    mib: float | None = None


class Learned:
    """The past starts of every node; without a state directory they are forgotten with the run.

    A file holds those of one node, and whoever has the node's lock writes it.
    """

    def __init__(self, state_dir: Path | None = None) -> None:
        self._folder = state_dir / "starts" if state_dir else None
        self._known: dict[str, _Starts] = {}

    def expect(self, node: str, title: str) -> Expected:
        """The median of the past starts."""
        starts = self._of(node).get(title, [])
        return Expected(_median([s for s, _ in starts]), _median([mib for _, mib in starts]))

    def learn(self, node: str, title: str, seconds: float, mib: float | None) -> None:
        """One more start; OSError where it cannot be kept."""
        starts = self._of(node).setdefault(title, [])
        starts.append((round(seconds, 1), None if mib is None else round(mib)))
        del starts[:-KEEP]
        if self._folder:
            private_copy(self._path(node), json.dumps({"version": 1, "starts": self._of(node)}))

    def _of(self, node: str) -> _Starts:
        if node not in self._known:
            self._known[node] = _read(self._path(node)) if self._folder else {}
        return self._known[node]

    def _path(self, node: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{quote(node, safe='')[:150]}.json"


def _read(path: Path) -> _Starts:
    """The starts in a file; none where it is missing or damaged."""
    try:
        return TypeAdapter(_Starts).validate_python(json.loads(path.read_bytes())["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
