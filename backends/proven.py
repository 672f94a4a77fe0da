"""When each rung of a node's recovery ladder was last proven by a drill: one small file in the state directory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from backends.errors import TierdeckError
from backends.paths import private_copy


class Proven:
    """The file, by node and rung; times are Unix seconds."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "proven.json"

    def read(self) -> dict[str, dict[str, float]]:
        """When each rung of each node was last proven; a file nobody can read says nothing."""
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        nodes = said.items() if isinstance(said, dict) else ()
        return {name: _times(rungs) for name, rungs in nodes if isinstance(rungs, dict)}

    def note(self, node: str, rungs: Iterable[str], now: float) -> None:
        """Remember that these rungs of a node are proven now."""
        said = self.read()
        try:
            private_copy(self._path, json.dumps({**said, node: {**said.get(node, {}), **dict.fromkeys(rungs, now)}}))
        except OSError as error:
            raise TierdeckError(
                f"{self._path} cannot be written ({error.strerror}), so what was proven is not remembered.",
                "Free the disk, or set TIERDECK_STATE.",
            ) from error


def _times(rungs: dict[str, object]) -> dict[str, float]:
    return {
        rung: float(at)
        for rung, at in rungs.items()
        if isinstance(at, int | float) and not isinstance(at, bool) and math.isfinite(at)
    }
