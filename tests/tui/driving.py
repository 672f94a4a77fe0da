"""Drives the console in tests: opens it on the sample, waits for conditions with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from tests.tui.sample import StillFeed, loaded
from tui.app import TierdeckApp
from tui.feed import Feed
from tui.setup import Setup

DEADLINE = 15.0


async def until(condition: Callable[[], object], what: str, *, limit: float = DEADLINE) -> None:
    """Wait until `condition` holds; fail naming `what` when the deadline passes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not condition():
        if loop.time() > deadline:
            raise AssertionError(f"not within {limit} s: {what}")
        await asyncio.sleep(0.01)


def shown(app: TierdeckApp) -> str:
    """What stands on the screen, as text."""
    width, height = app.size
    lines = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in strip)[:width] for strip in lines[:height])


async def picture(app: TierdeckApp) -> str:
    """The screen as SVG, once it has come to rest: three looks in a row that show the same."""
    looks: list[str] = []

    def at_rest() -> bool:
        looks.append(app.export_screenshot())
        return len(looks) >= 3 and len(set(looks[-3:])) == 1

    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE
    while not at_rest():
        if loop.time() > deadline:
            raise AssertionError("the screen does not come to rest")
        await asyncio.sleep(0.1)
    return looks[-1]


@asynccontextmanager
async def console(
    state: Path, *, size: tuple[int, int] = (160, 45), feed: type[Feed] = StillFeed, **options: Any
) -> AsyncIterator[tuple[TierdeckApp, Pilot[None]]]:
    """The console on the sample, painted."""
    setup = Setup(loaded=options.pop("loaded", None) or loaded(), state_dir=state, **options)
    app = TierdeckApp(setup, feed)
    async with app.run_test(size=size) as pilot:
        if feed is StillFeed:
            await until(lambda: "mistral" in shown(app) or "GATEWAY" in shown(app), "the first snapshot")
            await until(lambda: app.feed.snapshot.taken is not None, "a reading")
            await until(lambda: app.dashboard.router.is_mounted and "type a prompt" in shown(app), "all panes")
            await pilot.pause()
        yield app, pilot
