"""What is told of workloads beside their state: volumes, autoscalers, events and scanners' reports.

Each may be withheld from us, or not be there at all: then it is not told, and nothing else is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

from backends.cluster.noted import Scan
from backends.cluster.reading import Workload
from backends.errors import ReachError
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.kept import Kept
from backends.reach.kubernetes.notices import Happening, happening, notices
from backends.reach.kubernetes.posture import scans
from backends.reach.kubernetes.scaling import Scaling, scaling
from backends.reach.kubernetes.volumes import Fill, fills, volumes
from backends.reach.kubernetes.words import Seen

FILL_PAUSE: Final = 60.0
"""Seconds between two questions for how full volumes are; kubelets count anew every minute."""

SCAN_PAUSE: Final = 600.0
"""Seconds between two looks at scanners' reports, which change with images."""

AWAY_PAUSE: Final = 30.0
"""Seconds before an API that did not answer is asked again."""

_T = TypeVar("_T")


class Asked(Generic[_T]):
    """What no watch tells: asked for again and again; an answer stands until the next."""

    def __init__(self, ask: Callable[[], Awaitable[_T]], nothing: _T, pause: float) -> None:
        self.answer = nothing
        self.told = asyncio.Event()
        self._ask = ask
        self._pause = pause

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            pause = self._pause
            try:
                self.answer = await self._ask()
            except ReachError:  # the watches say why
                pause = AWAY_PAUSE
            self.told.set()
            await asyncio.sleep(pause)


class Asides:
    """What is told beside; `known` gives the cluster as it was last seen, once it was."""

    def __init__(self, api: KubernetesApi, parts: Iterable[str], known: Callable[[], Awaitable[Seen]]) -> None:
        self._api = api
        self._known = known
        self._seen = Seen()
        places = list(parts)
        autoscalers = "/apis/autoscaling/v2{}/horizontalpodautoscalers"
        self._scalers: list[Kept[Scaling]] = [Kept(api, autoscalers.format(part), scaling) for part in places]
        self._events: list[Kept[Happening]] = [Kept(api, f"/api/v1{part}/events", self._event) for part in places]
        self._kept: list[Kept[Any]] = [*self._scalers, *self._events]
        self._fills: Asked[dict[str, Fill]] = Asked(self._ask_fills, {}, FILL_PAUSE)
        self._scans: Asked[dict[str, tuple[Scan, ...]]] = Asked(self._ask_scans, {}, SCAN_PAUSE)

    async def run(self) -> None:
        """Watch and ask until cancelled, once it is known of what."""
        self._seen = await self._first()
        async with asyncio.TaskGroup() as group:
            for each in self._kept:
                group.create_task(each.run())
            group.create_task(self._fills.run())
            group.create_task(self._scans.run())

    async def told(self) -> None:
        """Wait until all was told once."""
        await asyncio.gather(*(each.told() for each in self._kept), self._fills.told.wait(), self._scans.told.wait())

    def noted(self, seen: Seen, workload: Workload) -> Workload:
        """A workload with what is told of it beside its state."""
        self._seen = seen
        what, pods = seen.controllers[workload.name], seen.of(workload.name)
        said = (each for kept in self._events for each in kept.objects.values())
        scaled = (each.words for kept in self._scalers for each in kept.objects.values() if each.target == what.name)
        return replace(
            workload,
            volumes=volumes(what, seen.claims, self._fills.answer, {pod.node for pod in pods}),
            scaling=next(scaled, ""),
            notices=notices(what.name, said),
            scans=self._scans.answer.get(what.name, ()),
        )

    def withheld(self) -> Iterator[str]:
        """Why some of it is not told."""
        for kept in self._kept:
            if kept.trouble is not None:
                yield kept.trouble.message

    def _event(self, data: Mapping[str, Any]) -> Happening | None:
        return happening(data, self._seen.controllers)

    async def _first(self) -> Seen:
        while True:
            try:
                return await self._known()
            except ReachError:  # whoever asks for workloads is told
                await asyncio.sleep(AWAY_PAUSE)

    async def _ask_fills(self) -> dict[str, Fill]:
        seen, claims = self._seen, self._seen.claims
        claiming = [what.name for what in seen.controllers.values() if volumes(what, claims, {}, ())]
        nodes = {pod.node for name in claiming for pod in seen.of(name) if pod.node}
        return await fills(self._api, sorted(nodes))

    async def _ask_scans(self) -> dict[str, tuple[Scan, ...]]:
        seen = self._seen
        return await scans(self._api, [(what, seen.of(what.name)) for what in seen.controllers.values()])
