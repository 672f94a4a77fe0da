"""Which model goes onto which GPU, and what would have to leave for one that does not fit. All sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

_MOST_TRIED = 20_000
"""Placements that are looked at before the best so far is taken."""
_MOST_LEAVING = 4


@dataclass(frozen=True, slots=True)
class Wish:
    """A model that should run: what must be free for it on a GPU, driver included; `pin` names a node or a GPU."""

    name: str
    need: int
    pin: str = ""
    on_demand: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """A GPU: `taken` is what others hold of it, `headroom` what should stay free."""

    name: str
    node: str
    capacity: int
    taken: int = 0
    headroom: int = 0

    @property
    def free(self) -> int:
        """What models may take."""
        return self.capacity - self.taken - self.headroom

    def takes(self, wish: Wish) -> bool:
        """Whether a wish's pin allows this GPU."""
        return wish.pin in ("", self.name, self.node)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each model goes (its GPU's name, None for nowhere); `leaving` is what would have to go for those."""

    spots: Mapping[str, str | None]
    used: Mapping[str, int]
    leaving: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether all of them have a place at once."""
        return all(spot is not None for spot in self.spots.values())


def place(wishes: Sequence[Wish], rooms: Sequence[Room]) -> Placement:
    """Place what is always on first, the largest first, so that as much as can be runs; then what is on demand."""
    order = sorted(wishes, key=lambda wish: (wish.on_demand, -wish.need, wish.name))
    spots = _Search(order, rooms).best()
    used = {room.name: sum(w.need for w in wishes if spots[w.name] == room.name) for room in rooms}
    leaving = {w.name: _leaving(w, wishes, rooms, spots, used) for w in order if spots[w.name] is None}
    return Placement({wish.name: spots[wish.name] for wish in wishes}, used, leaving)


class _Search:
    """Depth first, the fullest GPU that still takes it first; what is left out costs by its kind and size."""

    def __init__(self, order: Sequence[Wish], rooms: Sequence[Room]) -> None:
        self._order, self._rooms = order, rooms
        self._left = {room.name: room.free for room in rooms}
        self._now: dict[str, str | None] = {}
        self._best: tuple[tuple[int, int], dict[str, str | None]] | None = None
        self._tried = 0

    def best(self) -> dict[str, str | None]:
        self._step(0, (0, 0))
        return self._best[1] if self._best else {}

    def _step(self, index: int, missed: tuple[int, int]) -> None:
        if self._best and (missed >= self._best[0] or self._tried > _MOST_TRIED):
            return
        self._tried += 1
        if index == len(self._order):
            self._best = missed, dict(self._now)
            return
        wish = self._order[index]
        able = [room for room in self._rooms if room.takes(wish) and self._left[room.name] >= wish.need]
        for room in sorted(able, key=lambda room: self._left[room.name]):
            self._left[room.name] -= wish.need
            self._now[wish.name] = room.name
            self._step(index + 1, missed)
            self._left[room.name] += wish.need
        self._now[wish.name] = None
        always, demand = missed
        self._step(index + 1, (always, demand + wish.need) if wish.on_demand else (always + wish.need, demand))


def _leaving(
    wish: Wish,
    wishes: Sequence[Wish],
    rooms: Sequence[Room],
    spots: Mapping[str, str | None],
    used: Mapping[str, int],
) -> tuple[str, ...]:
    """The least that would have to go from one GPU for it: few models, then small ones, on demand before always on."""
    found: list[tuple[int, int, int, tuple[str, ...]]] = []
    for room in rooms:
        if not room.takes(wish) or room.free < wish.need:
            continue
        there = [each for each in wishes if spots[each.name] == room.name]
        missing = wish.need - (room.free - used[room.name])
        for count in range(1, min(len(there), _MOST_LEAVING) + 1):
            for group in combinations(there, count):
                if (gone := sum(each.need for each in group)) >= missing:
                    always = sum(not each.on_demand for each in group)
                    found.append((always, count, gone, tuple(sorted(each.name for each in group))))
    return min(found)[3] if found else ()
