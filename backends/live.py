"""The live cluster: readings in, snapshots out, no more often than a person (or an SSH line) can take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from backends.clock import Clock, set_within
from backends.cluster.fold import Draft, empty, fitted, workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Reading, Tick
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.cluster.words import Verdict

Record = Callable[[Sequence[Reading], ClusterSnapshot, ClusterSnapshot], object]
"""Takes what was folded, and the snapshots before and after it; must return at once."""

PACE: Final = 0.25
"""Seconds between two snapshots at the most often."""

TICK: Final = 1.0
"""Seconds after which time alone is news (staleness, shown ages)."""


SLEPT: Final = 30.0
"""Seconds between two settlings after which this machine, or this process, must have slept."""


class LiveCluster:
    """Folds readings as they come and publishes each snapshot that differs from the one before.

    Snapshots are at least `pace` seconds apart, and `calm` seconds while every endpoint says what it said before.
    """

    def __init__(
        self,
        inventory: Inventory,
        here: str | None,
        clock: Clock,
        publish: Callable[[ClusterSnapshot, ClusterSnapshot], None],
        *,
        nudge: Callable[[str | None], object] | None = None,
        pace: float = PACE,
        calm: float = 0.0,
    ) -> None:
        self.inventory = inventory
        self.snapshot = empty(inventory, here)
        self._clock = clock
        self._publish = publish
        self._nudge = nudge
        self._pace = pace
        self._calm = calm
        self._record: Record | None = None
        self._draft: Draft | None = None
        self._news = asyncio.Event()
        self._change = asyncio.Event()
        self._settled: float | None = None

    def stand_on(self, here: str | None) -> None:
        """Begin anew, standing on the node `here` (None: on none of the cluster's)."""
        self.snapshot = empty(self.inventory, here)

    def adopt(self, inventory: Inventory) -> None:
        """Go on with a changed inventory; what stays keeps its state, and is published. Settle before that."""
        before, self.snapshot = self.snapshot, fitted(self.snapshot, self.inventory, inventory)
        self.inventory = inventory
        self._publish(before, self.snapshot)

    def record_with(self, record: Record) -> None:
        """Hand everything that is folded from now on to `record`, too."""
        self._record = record

    def is_down(self, endpoint: str) -> bool:
        """Whether an endpoint is held to be DOWN, and so may be asked less often."""
        return self.snapshot.endpoints[endpoint].verdict is Verdict.DOWN

    def emit(self, reading: Reading) -> None:
        """Fold in a reading; it is published within `pace` seconds, or `calm` if it brings no other cause."""
        self._draft = self._draft or Draft(self.inventory, self.snapshot)
        self._draft.take(reading)
        self._news.set()
        if isinstance(reading, EndpointReading) and self._is_other(reading):
            self._change.set()

    def _is_other(self, reading: EndpointReading) -> bool:
        return reading.result.cause is not self.snapshot.endpoints[reading.endpoint].cause

    async def run(self) -> None:
        """Fold and publish until cancelled."""
        while True:
            await set_within(self._news, TICK)
            self._let_time_pass()
            await asyncio.sleep(0)  # a key that waits goes first
            self._finish()
            await asyncio.sleep(self._pace)
            await set_within(self._change, self._calm - self._pace)

    def settle(self) -> None:
        """Fold in the passing of time, and publish if that, or a reading, changed anything."""
        self._let_time_pass()
        self._finish()

    def _let_time_pass(self) -> None:
        self._news.clear()
        self._change.clear()
        now = self._clock.now()
        self._ask_after_sleep(now.mono)
        self._draft = self._draft or Draft(self.inventory, self.snapshot)
        self._draft.take(Tick(now))

    def _finish(self) -> None:
        before, draft = self.snapshot, self._draft
        if draft is None:  # somebody settled meanwhile
            return
        self._draft = None
        self.snapshot = draft.finished()
        changed = self.snapshot != before
        if changed:
            self._publish(before, self.snapshot)
            self._probe_restarted(before)
        read = any(not isinstance(reading, Tick) for reading in draft.readings)
        if self._record is not None and (read or changed):  # last: its thread shares Python's lock with who draws
            self._record(draft.readings, before, self.snapshot)

    def _ask_after_sleep(self, now: float) -> None:
        """Have everything asked at once where time passed that nobody here lived through: a suspended laptop."""
        slept, self._settled = self._settled is not None and now - self._settled > SLEPT, now
        if slept and self._nudge is not None:
            self._nudge(None)

    def _probe_restarted(self, before: ClusterSnapshot) -> None:
        """Have the endpoints of what started or stopped, and all of a node that is reached again, asked now.

        So is who is DOWN no more: the pause that it was given last is still that of one who is.
        """
        if self._nudge is None:
            return
        looked_at = set()  # the nodes whose workloads were read anew
        for name, node in self.snapshot.nodes.items():
            if before.nodes[name].reach_trouble is not None and node.reach_trouble is None:
                self._nudge(name)
            if before.nodes[name].workloads is not node.workloads:
                looked_at.add(name)
        for endpoint in self.inventory.endpoints:
            was_down = before.endpoints[endpoint.name].verdict is Verdict.DOWN
            back = was_down and not self.is_down(endpoint.name)
            if back or (endpoint.node in looked_at and self._restarted(before, endpoint)):
                self._nudge(endpoint.name)

    def _restarted(self, before: ClusterSnapshot, endpoint: Endpoint) -> bool:
        then, now = workload_of(before, endpoint), workload_of(self.snapshot, endpoint)
        return then is not None and now is not None and (then.state, then.started_at) != (now.state, now.started_at)
