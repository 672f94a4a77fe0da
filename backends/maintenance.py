"""What a person put under maintenance, and until when: one small file in the state directory, read by every console."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

from backends.cluster.fields import seconds_of
from backends.cluster.inventory import Inventory
from backends.errors import TierdeckError
from backends.paths import private_copy

LONGEST: Final = 86400.0 * 30
"""Seconds; maintenance that lasts longer is a thing forgotten."""


class Maintenance:
    """The file; ends that have passed are dropped with the next change."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "maintenance.json"

    def read(self) -> dict[str, float]:
        """Until when (Unix seconds) each node, endpoint or check is left alone; a file nobody can read says nothing."""
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(said, dict):
            return {}
        return {
            name: float(until)
            for name, until in said.items()
            if isinstance(until, int | float) and not isinstance(until, bool) and math.isfinite(until)
        }

    def begin(self, name: str, until: float, now: float) -> None:
        """Leave `name` alone until then; replaces what was said of it before."""
        self._write({**self.read(), name: until}, now)

    def end(self, name: str, now: float) -> bool:
        """Take it under care again; whether it was under maintenance."""
        said = self.read()
        was = said.pop(name, 0.0) > now
        self._write(said, now)
        return was

    def _write(self, said: dict[str, float], now: float) -> None:
        kept = {name: until for name, until in said.items() if until > now}
        try:
            private_copy(self._path, json.dumps(kept))
        except OSError as error:
            raise TierdeckError(
                f"{self._path} cannot be written ({error.strerror}), so nothing is under maintenance.",
                "Free the disk, or set TIERDECK_STATE.",
            ) from error


def wanted(inventory: Inventory, name: str) -> str:
    """`name`, where the inventory has a node or endpoint of it."""
    known = (*inventory.node_named, *inventory.endpoint_named)
    if name not in known:
        raise TierdeckError(f"There is no node or endpoint {name}.", f"Known are: {', '.join(known[:12])}.")
    return name


def lasting(words: str) -> float:
    """Seconds that a person meant by "2h" or "45m"."""
    try:
        seconds = float(seconds_of(words))
    except ValueError:
        raise TierdeckError(f'"{words}" is no duration.', "Say how long: 45m, 2h, 1d.") from None
    if not 0 < seconds <= LONGEST:
        raise TierdeckError("Maintenance lasts from a second to 30 days.", "Say how long: 45m, 2h, 1d.")
    return seconds
