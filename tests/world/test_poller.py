"""The poller: whoever was late, or asked early, is asked in its old rhythm again; a fault in one source stays in it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.cluster.reading import Instant, Reading, Tick
from backends.poller import COARSEST, TOGETHER, Poller, on_beat, on_grid
from backends.sources import looked_at_every


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (0.0, 5.0),
        (0.03, 4.97),  # as long as a probe takes
        (1.5, 3.5),  # the loop was busy
        (3.0, 2.0),  # it timed out
        (4.5, 5.5),  # too close to the next
        (7.0, 3.0),
        (3600.0, 5.0),  # the machine slept
        (-2.0, 2.0),  # a nudge asked it early
        (-0.5, 5.5),
    ],
)
def test_the_next_question_comes_in_its_beat(late: float, expected: float) -> None:
    assert math.isclose(on_beat(late, 5.0), expected)


@given(late=st.floats(-600, 1e6), pause=st.floats(0.02, 600))
def test_nobody_is_asked_at_once_or_forgotten_and_the_beat_stays(late: float, pause: float) -> None:
    rest = on_beat(late, pause)
    assert 0.2 * pause <= rest <= 1.2 * pause
    off = (late + rest) % pause
    assert min(off, pause - off) <= 1e-6 * max(1.0, abs(late))


@pytest.mark.parametrize(
    ("due", "sources", "expected"),
    [
        (100.0, 40, 100.0),
        (100.09, 40, 100.0),  # 40 sources at 2 s, four together: every 0.2 s
        (100.11, 40, 100.2),
        (100.6, 6, 100.5),  # few are not made to wait for each other longer than an eighth of the pause
        (100.0031, 4000, 100.004),
    ],
)
def test_sources_of_one_pause_are_asked_together(due: float, sources: int, expected: float) -> None:
    assert math.isclose(on_grid(due, 2.0, sources), expected)


@given(due=st.floats(0, 1e6), pause=st.floats(0.02, 600), sources=st.integers(1, 5000))
def test_a_moment_of_asking_is_near_and_stays(due: float, pause: float, sources: int) -> None:
    moved = on_grid(due, pause, sources)
    assert abs(moved - due) <= 0.51 * pause * min(TOGETHER / sources, COARSEST)
    assert math.isclose(on_grid(moved, pause, sources), moved)


@pytest.mark.parametrize(("nodes", "seconds"), [(0, 2.0), (8, 2.0), (40, 2.0), (100, 5.0)])
def test_where_there_are_many_nodes_each_is_looked_at_less_often(nodes: int, seconds: float) -> None:
    assert looked_at_every(nodes) == seconds


class Ticking:
    """A source that says what time it is, over and over."""

    topics = ()

    def __init__(self, wall: float) -> None:
        self.key = f"source {wall:g}"
        self._wall = wall

    async def read(self) -> tuple[Sequence[Reading], float]:
        return [Tick(Instant(self._wall, 0.0))], 0.01


async def test_what_cannot_be_taken_from_one_source_does_not_end_the_others() -> None:
    taken: list[Reading] = []
    crashes: list[str] = []

    def take(reading: Reading) -> None:
        if reading.at.wall == 1.0:
            raise ZeroDivisionError
        taken.append(reading)

    poller = Poller(
        [Ticking(1.0), Ticking(2.0)], [], take, crashed=lambda key, error: crashes.append(f"{key} {error!r}")
    )
    task = asyncio.create_task(poller.run())
    async with asyncio.timeout(10):
        while len(taken) < 3:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert crashes == ["source 1 ZeroDivisionError()"]
