"""How fast each endpoint answered lately, kept in the state directory: the order where the person said none."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from pydantic import TypeAdapter

from backends.paths import private_copy


class Paces:
    """Tokens per second by endpoint, of one cluster; of two consoles the later writer wins. Its calls block."""

    def __init__(self, state_dir: Path, cluster: str) -> None:
        self._path = state_dir / "paces" / f"{quote(cluster, safe='')[:150]}.json"

    def read(self) -> dict[str, float]:
        """What is known; nothing where the file is missing or damaged."""
        try:
            return TypeAdapter(dict[str, float]).validate_python(json.loads(self._path.read_bytes())["paces"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def learn(self, endpoint: str, tokens_per_s: float) -> None:
        """One more answer, which counts for a third; OSError where it cannot be kept."""
        known = self.read()
        before = known.get(endpoint, tokens_per_s)
        paces = known | {endpoint: round(before + (tokens_per_s - before) / 3, 2)}
        private_copy(self._path, json.dumps({"version": 1, "paces": paces}))
