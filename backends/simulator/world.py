"""The world a simulation runs in: how fast its story is told, and where its chance comes from."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(slots=True)
class World:
    """Pace and chance, handed to every part; durations everywhere are story seconds."""

    speed: float = 1.0
    """Story seconds per real second."""
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    """The only source of chance."""

    async def sleep(self, seconds: float) -> None:
        """Wait so many story seconds."""
        await asyncio.sleep(seconds / self.speed)

    def story(self) -> float:
        """Story seconds on a monotonic clock."""
        return asyncio.get_running_loop().time() * self.speed

    def hex(self, digits: int) -> str:
        """So many random hexadecimal digits."""
        return f"{self.rng.getrandbits(4 * digits):0{digits}x}"


def rfc3339(at: float) -> str:
    """Unix seconds as Docker and Ollama write them: nanoseconds and Z."""
    if at <= 0:
        return "0001-01-01T00:00:00Z"
    whole = datetime.fromtimestamp(int(at), UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{int(at % 1 * 1e9):09d}Z"
