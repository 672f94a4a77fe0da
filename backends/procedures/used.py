"""When each on-demand endpoint worked last: whoever was used longest ago leaves first."""

from __future__ import annotations

import json
from pathlib import Path

from backends.paths import private_copy


class Used:
    """When each endpoint worked last, in Unix seconds: a small file in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "used.json"

    def read(self) -> dict[str, float]:
        """What is known; nothing where that cannot be read."""
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return {k: float(v) for k, v in said.items() if isinstance(v, int | float)} if isinstance(said, dict) else {}

    def note(self, endpoint: str, at: float) -> None:
        """It worked; what cannot be kept is forgotten."""
        try:
            private_copy(self._path, json.dumps({**self.read(), endpoint: at}))
        except OSError:
            return  # the order of leaving is then by the time of start
