"""Remembers when a node was out of reach during a procedure, and what ran there before.

A Docker that restarts takes all containers along, and starts some of them again by itself, all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from backends.cluster.reading import Workload
from backends.errors import ReachError, RuntimeFailure
from backends.procedures.events import StepEvent


class Outages:
    """The outages of one run, of one node; workloads go by their titles.

    `count` outages began so far; `owed` is what was stopped, or went with one, and is to be started again.
    """

    def __init__(self) -> None:
        self.count = 0
        self.settled = 0
        self.owed: list[str] = []
        self._away = False
        self._ran: dict[str, float | None] = {}
        self._ended: frozenset[str] = frozenset()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask a node something; that it cannot be asked begins an outage, any answer, a refusal too, ends it."""
        try:
            yield
        except ReachError as error:
            answered = isinstance(error, RuntimeFailure) and error.status is not None
            self.count += not (answered or self._away)
            self._away = not answered
            raise
        self._away = False

    def missed(self) -> None:
        """One was over before anybody asked."""
        self.count += 1

    @property
    def unsettled(self) -> bool:
        """Whether something is to be put right."""
        return self.count > self.settled or bool(self.owed)

    def remember(self, running: Mapping[str, Workload]) -> None:
        """What runs before something is started, as long as nothing is to be put right.

        What ended since the look before is kept in mind for one look more: a Docker that goes away stops its
        containers first, and answers meanwhile.
        """
        if not self.unsettled:
            self._ended = self.gone(running)
            self._ran = {title: workload.started_at for title, workload in running.items()}

    def began(self, title: str, started_at: float | None) -> None:
        """We started this ourselves."""
        self._ran[title] = started_at

    def by_itself(self, title: str, workload: Workload) -> bool:
        """Whether its runtime started it by itself, since: it may, it runs, and neither before nor by us."""
        return workload.returns and (title not in self._ran or self._ran[title] != workload.started_at)

    def gone(self, running: Iterable[str]) -> frozenset[str]:
        """What ran at the last look, and does not now."""
        return frozenset(self._ran) - set(running)

    def swept(self, running: Mapping[str, Workload], name: str) -> bool:
        """Whether all that ran beside `name` at the last look has ended or was started anew: its Docker restarted."""
        others = {title: at for title, at in self._ran.items() if title != name}
        return bool(others) and all(t not in running or running[t].started_at != at for t, at in others.items())

    def taken_along(self, running: Iterable[str]) -> frozenset[str]:
        """What an outage took along."""
        return (frozenset(self._ran) | self._ended) - set(running)

    def recall(self, events: Sequence[StepEvent]) -> None:
        """What an earlier run of the procedure stopped, and had not started again when it was broken off.

        Nobody looked since then, which counts as an outage.
        """
        self.count += 1
        for event in events:
            if event.event == "output" and isinstance(event.detail, Mapping):
                stopped, again = event.detail.get("stopped"), event.detail.get("again")
                if isinstance(stopped, list):
                    self.owed += [title for title in map(str, stopped) if title not in self.owed]
                if again in self.owed:
                    self.owed.remove(str(again))
