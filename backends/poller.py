"""Cadence: who is asked when. Each source has a task of its own, so that none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from random import Random
from typing import Final, Protocol

from backends.clock import set_within
from backends.cluster.reading import Reading

LONGEST_BACKOFF: Final = 60.0
"""Seconds between two probes of something that has been down for long."""

AFTER_CRASH: Final = 30.0
"""Seconds before a source that raised something unforeseen is asked again."""

AT_ONCE: Final = 64
"""How many sources are asked side by side; the first round over 1,000 endpoints must not open 1,000 sockets."""

CLOSEST: Final = 0.2
"""Of a pause, between an answer and the next question."""

TOGETHER: Final = 4
"""How many sources of one pace are asked at one moment: to wake up costs as much as to ask two of them."""

COARSEST: Final = 0.125
"""Of a pause, between two such moments."""

STAGGER: Final = 0.05
"""Seconds between the openings of two streams: what tells at its own pace keeps the beat in which it was opened."""


class Topical(Protocol):
    """Something asked by the poller: `key` names it, `topics` are the endpoints and nodes it tells of."""

    @property
    def key(self) -> str:
        """A name of its own."""
        ...

    @property
    def topics(self) -> tuple[str, ...]:
        """The endpoints and nodes it tells of."""
        ...


class Source(Topical, Protocol):
    """Something that can be read again and again, within its own time limit."""

    async def read(self) -> tuple[Sequence[Reading], float]:
        """What it says now, and the seconds until it should be asked again."""
        ...


class Stream(Topical, Protocol):
    """Something that tells by itself; when it ends it is opened anew after `pause` seconds."""

    @property
    def pause(self) -> float:
        """Seconds before it is opened anew."""
        ...

    def readings(self) -> AsyncGenerator[Reading, None]:
        """What it says, until it ends or is closed."""
        ...


def backoff(interval: float, failures: int, down_after: int, chance: Random) -> float:
    """Seconds to the next probe after `failures` in a row: doubled for each beyond `down_after`, jittered by 20%."""
    if failures < down_after:
        return interval
    longest = max(interval, LONGEST_BACKOFF)
    return min(longest, interval * 2.0 ** min(failures - down_after + 1, 10)) * chance.uniform(0.8, 1.0)


def on_beat(late: float, pause: float) -> float:
    """Seconds to the next question of a source that was due `late` seconds ago (if negative: is due then), in its beat.

    A machine that was busy for a second is late for all that was due in it. Counted from their answers, these would be
    asked in one bunch from then on, which makes it late for more. Nobody is asked twice within a fifth of the pause.
    """
    left = -late % pause
    return left if left >= pause * CLOSEST else left + pause


def on_grid(due: float, pause: float, sources: int) -> float:
    """The moment nearest to `due` at which sources of this pause are asked together, `sources` being all there are."""
    slot = pause * min(TOGETHER / sources, COARSEST)
    return round(due / slot) * slot


class Poller:
    """Asks every source at its own pace and hands what it says to `emit`; owns all the tasks that do so."""

    def __init__(
        self,
        sources: Iterable[Source],
        streams: Iterable[Stream],
        emit: Callable[[Reading], None],
        *,
        crashed: Callable[[str, Exception], None],
        chance: Random | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self._sources = tuple(sources)
        self._streams = tuple(streams)
        self._emit = emit
        self._crashed = crashed
        self._chance = chance or Random()
        self._gate = asyncio.Semaphore(at_once)
        self._all: tuple[Topical, ...] = (*self._sources, *self._streams)
        self._nudges = {source.key: asyncio.Event() for source in self._all}

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as group:
            for source in self._sources:
                group.create_task(self._poll(source), name=f"poll {source.key}")
            for i, stream in enumerate(self._streams):
                group.create_task(self._listen(stream, STAGGER * i), name=f"listen {stream.key}")

    def nudge(self, topic: str | None = None) -> int:
        """Ask everything about `topic` (an endpoint, a node; None: everything) now; how many sources that is."""
        keys = [s.key for s in self._all if topic is None or topic in s.topics]
        for key in keys:
            self._nudges[key].set()
        return len(keys)

    async def _poll(self, source: Source) -> None:
        nudge, clock = self._nudges[source.key], asyncio.get_running_loop().time
        pause = await self._ask(source)
        due = clock() + pause * self._chance.uniform(0.0, 1.0)  # all are spread over the interval
        while True:
            due = on_grid(due, pause, len(self._sources))
            await set_within(nudge, due - clock())
            nudge.clear()
            pause = await self._ask(source)
            now = clock()
            due = now + on_beat(now - due, pause)

    async def _ask(self, source: Source) -> float:
        async with self._gate:
            try:
                readings, pause = await source.read()
                for reading in readings:
                    self._emit(reading)
            except Exception as error:  # a fault of ours in one source must not end the others; it is told, not hidden
                self._crashed(source.key, error)
                return AFTER_CRASH
        return pause

    async def _listen(self, stream: Stream, begin: float) -> None:
        nudge = self._nudges[stream.key]
        await set_within(nudge, begin)
        while True:
            nudge.clear()
            try:
                async with aclosing(stream.readings()) as readings:
                    async for reading in readings:
                        self._emit(reading)
            except Exception as error:  # as above
                self._crashed(stream.key, error)
            await set_within(nudge, stream.pause)
