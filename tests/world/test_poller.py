"""The beat of questions: whoever was late, or asked early, is asked in its old rhythm again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.poller import on_beat
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


@pytest.mark.parametrize(("nodes", "seconds"), [(0, 2.0), (8, 2.0), (40, 2.0), (100, 5.0)])
def test_where_there_are_many_nodes_each_is_looked_at_less_often(nodes: int, seconds: float) -> None:
    assert looked_at_every(nodes) == seconds
