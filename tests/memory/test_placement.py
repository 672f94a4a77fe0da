"""Placing models onto GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.memory.placement import Room, Wish, place

GB = 10**9
DESK = Room("desk/0", "desk", 32 * GB)
MARK = Room("mark/0", "mark", 24 * GB)
FIVE = [
    Wish("mark-i", 9_200_000_000),
    Wish("mark-ii", 4_400_000_000),
    Wish("mark-iii", 3_600_000_000),
    Wish("mark-iv", 2_000_000_000),
    Wish("mark-v", 900_000_000),
]


def test_five_models_on_one_gpu() -> None:
    found = place(FIVE, [MARK])
    assert found.fits
    assert found.used["mark/0"] == pytest.approx(20.1 * GB)
    assert round(100 * found.used["mark/0"] / MARK.capacity) == 84


@pytest.mark.parametrize(
    ("wishes", "rooms", "spots"),
    [
        ([Wish("a", 30 * GB), Wish("b", 20 * GB)], [DESK, MARK], {"a": "desk/0", "b": "mark/0"}),
        ([Wish("a", 20 * GB), Wish("b", 30 * GB)], [DESK, MARK], {"a": "mark/0", "b": "desk/0"}),
        ([Wish("a", 5 * GB, pin="desk")], [DESK, MARK], {"a": "desk/0"}),
        ([Wish("a", 5 * GB, pin="mark/0"), Wish("b", 20 * GB)], [DESK, MARK], {"a": "mark/0", "b": "desk/0"}),
        ([Wish("a", 30 * GB, pin="mark")], [DESK, MARK], {"a": None}),
        ([Wish("big", 24 * GB, on_demand=True), Wish("small", 9 * GB)], [DESK], {"big": None, "small": "desk/0"}),
        ([Wish("a", GB)], [], {"a": None}),
        ([Wish("a", 24 * GB)], [Room("mark/0", "mark", 24 * GB, headroom=1)], {"a": None}),
        ([Wish("a", 20 * GB)], [Room("mark/0", "mark", 24 * GB, taken=5 * GB), DESK], {"a": "desk/0"}),
        # Largest first and best fit alone would put 6 beside 9 and leave 5 out.
        (
            [Wish("w9", 9), Wish("w6", 6), Wish("w5", 5), Wish("w4", 4)],
            [Room("x", "x", 13), Room("y", "y", 11)],
            {"w9": "x", "w6": "y", "w5": "y", "w4": "x"},
        ),
    ],
)
def test_where_they_go(wishes: list[Wish], rooms: list[Room], spots: dict[str, str | None]) -> None:
    assert place(wishes, rooms).spots == spots


def test_what_would_have_to_leave() -> None:
    found = place([Wish("always", 10 * GB), Wish("lazy", 12 * GB, on_demand=True), Wish("new", 30 * GB)], [DESK, MARK])
    assert found.spots["new"] == "desk/0"
    found = place([Wish("chat", 20 * GB), Wish("lazy", 3 * GB, on_demand=True), Wish("code", 20 * GB)], [MARK])
    left_out = next(name for name, spot in found.spots.items() if spot is None)
    assert found.leaving[left_out] == (("code",) if left_out == "chat" else ("chat",))


def test_nothing_helps_what_is_larger_than_any_gpu() -> None:
    found = place([Wish("huge", 90 * GB)], [DESK, MARK])
    assert not found.fits
    assert found.leaving == {"huge": ()}


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.lists(st.integers(1, 60), max_size=4),
)
def test_no_gpu_is_ever_overfull(needs: list[int], capacities: list[int]) -> None:
    wishes = [Wish(f"w{n}", need, on_demand=n % 2 == 0) for n, need in enumerate(needs)]
    rooms = [Room(f"r{n}", "node", capacity) for n, capacity in enumerate(capacities)]
    found = place(wishes, rooms)
    assert set(found.spots) == {wish.name for wish in wishes}
    assert all(found.used[room.name] <= room.capacity for room in rooms)
    if sum(needs) <= max(capacities, default=0):
        assert found.fits
