"""Time, passed in: both clocks and a sleep, so that tests need not wait."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from backends.cluster.reading import Instant

_AGES: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock for ages: it goes on while the machine sleeps (Linux: CLOCK_BOOTTIME; macOS: CLOCK_MONOTONIC does)."""


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
        return Instant(time.time(), time.clock_gettime(_AGES))

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        await asyncio.sleep(seconds)


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, which happens after so many seconds at the latest.

    A time limit would do the same at the price of an exception and two more turns of the loop, many times a second.
    """
    alarm = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        alarm.cancel()
