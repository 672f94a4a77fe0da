"""Keys that need a right which a cluster does not give us: grey, and answered with what is missing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from textual.pilot import Pilot

from backends.cluster.fold import empty, fold_all
from backends.cluster.reading import Reading, WorkloadReading
from backends.cluster.snapshot import ClusterSnapshot
from tests.tui.driving import console, shown, until
from tests.tui.sample import StillFeed, loaded, readings
from tui.app import TierdeckApp
from tui.rights import forbidden

MAY_NOT = "may not: update deployments/scale.apps in llm"


def limited(*names: str) -> ClusterSnapshot:
    """The sample, where those workloads of mark may not be started."""
    inventory = loaded().inventory
    denied = (("start", MAY_NOT),)
    told: list[Reading] = []
    for reading in readings():
        if isinstance(reading, WorkloadReading):
            found = (replace(w, forbidden=denied) if w.name in names else w for w in reading.workloads)
            reading = replace(reading, workloads=tuple(found))
        told.append(reading)
    return fold_all(inventory, empty(inventory, "desk"), told)


class LimitedFeed(StillFeed):
    """Publishes a cluster that does not give us all rights."""

    names: tuple[str, ...] = ("mark-v", "mark-iii", "mark-iv")

    async def run(self) -> None:
        before = self.live.snapshot
        self.live.snapshot = limited(*self.names)
        self.live._publish(before, self.live.snapshot)
        await asyncio.Event().wait()


class PartlyFeed(LimitedFeed):
    """One of the node's three workloads may not be started."""

    names = ("mark-iv",)


def grey(app: TierdeckApp) -> set[str]:
    return {text.strip() for text, style in app.dashboard.keys._spans if style == "dim"}


async def select(app: TierdeckApp, pilot: Pilot[None], endpoint: str) -> None:
    async with asyncio.timeout(10):
        while app.dashboard.selection() != f"endpoint:{endpoint}":
            await pilot.press("down")


async def test_the_key_is_grey_and_says_which_right_is_missing(tmp_path: Path) -> None:
    async with console(tmp_path, feed=LimitedFeed) as (app, pilot):
        await until(lambda: "mistral" in shown(app), "the first snapshot")
        assert grey(app) == set()
        await select(app, pilot, "remote/mark-iv")
        await until(lambda: grey(app) == {"s", "start queue"}, "the grey key")
        assert forbidden(app) == {"queue": MAY_NOT, "up": MAY_NOT}
        await pilot.press("s")
        await until(lambda: f"{MAY_NOT}. Have that right given to you in a Role." in shown(app), "the answer")
        assert app.screen is app.dashboard
        await pilot.press("question_mark")
        await until(lambda: MAY_NOT in shown(app), "the help")
        await pilot.press("escape")
        told = {command.title: command.help for command in app.get_system_commands(app.screen)}
        assert told["start queue (s)"] == MAY_NOT
        await select(app, pilot, "nas/coder")
        await until(lambda: grey(app) == set(), "the key to be as before")


async def test_what_may_be_done_in_part_is_not_grey(tmp_path: Path) -> None:
    async with console(tmp_path, feed=PartlyFeed) as (app, pilot):
        await until(lambda: "mistral" in shown(app), "the first snapshot")
        await select(app, pilot, "remote/mark-v")
        assert forbidden(app) == {}
        await pilot.press("s")
        await until(lambda: app.screen is not app.dashboard, "the queue to be arranged")
