"""Time, passed in: both clocks and a sleep, so that tests need not wait."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from backends.cluster.reading import Instant


class Clock(Protocol):
    """Tells the time on both clocks, and waits."""

    def now(self) -> Instant:
        """This moment."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Instant:
        """This moment."""
        return Instant(time.time(), time.monotonic())

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        await asyncio.sleep(seconds)
