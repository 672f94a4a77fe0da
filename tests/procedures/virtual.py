"""An event loop whose time is a figure: nothing waits, and a test of an hour takes milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from backends.cluster.reading import Instant

T = TypeVar("T")

EPOCH = 1_750_000_000.0


class _Selector(selectors.SelectSelector):
    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everything waits for something that never comes")
        if not events and timeout:
            self.passed += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.passed


class VirtualClock:
    def now(self) -> Instant:
        passed = asyncio.get_running_loop().time()
        return Instant(EPOCH + passed, passed)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in virtual time; it fails where nothing is left that could happen."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
