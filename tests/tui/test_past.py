"""The whole console moves back in time: same panes, nothing that changes the world, and back to now."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from syrupy.assertion import SnapshotAssertion
from textual.pilot import Pilot

from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, GpuReading, Instant, Reading, Tick, WorkloadReading
from backends.cluster.tables import Endpoint
from backends.cluster.words import Cause
from backends.history.recorder import Recorder
from backends.history.recording import Recording
from backends.history.store import history_path
from backends.history.timeline import Timeline
from tests.history.playing import Live, at, finish, probe
from tests.tui.driving import console, picture, shown, until
from tests.tui.sample import NOW, loaded, readings
from tests.tui.test_snapshots import SIZES
from tui.actions import Effect, allowed
from tui.app import TierdeckApp
from tui.feed import Feed
from tui.screens.history import HistoryScreen
from tui.screens.text import TextScreen
from widgets.lines import LinePane

TWO_HOURS = 7200.0


def record(path: Path) -> None:
    """Two hours ago: all read, then local/ollama refuses, then it is back."""
    recorder = Recorder(path, loaded().inventory, lambda text: None)
    play = Live(recorder)
    play(-TWO_HOURS, *(_then(reading) for reading in readings()))
    for i in range(1, 30):
        cause = Cause.REFUSED if 10 <= i < 20 else Cause.OK
        then = -TWO_HOURS + 5.0 * i
        others = [replace(r, at=at(then)) for r in readings() if isinstance(r, EndpointReading | GpuReading)]
        play(then, *others, probe(cause, then + 0.5))
    finish(recorder)


def _then(reading: Reading) -> Reading:
    """A reading of the sample as it would have been two hours before."""
    if isinstance(reading, WorkloadReading):
        started = [replace(w, started_at=w.started_at and w.started_at - TWO_HOURS) for w in reading.workloads]
        reading = replace(reading, workloads=tuple(started))
    return replace(reading, at=at(-TWO_HOURS))


@asynccontextmanager
async def past(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[TierdeckApp, Pilot[None]]]:
    """A console that has gone back to the latest change."""
    record(history_path(tmp_path, "lumina", loaded().path))
    async with console(tmp_path, **options) as (app, pilot):
        await pilot.press("b")
        await until(lambda: app.in_past and app.view.router.is_mounted and "PAST -" in shown(app), "the past")
        await pilot.pause()
        yield app, pilot


def pane_text(pane: LinePane) -> list[str]:
    return [each.text for each in pane.compose_lines(pane.scrollable_content_region.width)]


def place(app: TierdeckApp) -> str:
    found = re.search(r"(\d+)/(\d+)", shown(app).splitlines()[0])
    return found[0] if found else ""


async def test_b_goes_back_and_esc_comes_forward(tmp_path: Path) -> None:
    async with past(tmp_path) as (app, pilot):
        assert "PAST -1 h" in shown(app)
        assert "local/ollama" in shown(app)
        await pilot.press("escape")
        await until(lambda: not app.in_past and "PAST" not in shown(app), "now")


async def test_the_arrows_move_the_whole_console(tmp_path: Path) -> None:
    async with past(tmp_path) as (app, pilot):
        last = place(app)
        was = app.view.snapshot
        await pilot.press("left")
        await until(lambda: "REFUSED" in shown(app) and app.view.snapshot != was, "the refusal")
        assert app.view.snapshot.endpoints["local/ollama"].cause is Cause.REFUSED
        assert place(app) != last
        assert "DOWN REFUSED" in app.view.events.lines[-1].text
        await pilot.press("right")
        await until(lambda: place(app) == last and app.view.snapshot == was, "the latest change again")
        await pilot.press("right")
        await until(lambda: "nothing later is recorded" in shown(app), "the end")
        for _ in range(20):
            await pilot.press("p")
        await until(lambda: "nothing earlier is recorded" in shown(app), "the beginning")


async def test_the_past_looks_as_it_looked_when_it_was_now(tmp_path: Path) -> None:
    path = history_path(tmp_path, "lumina", loaded().path)
    recorder = Recorder(path, loaded().inventory, lambda text: None)
    Live(recorder)(0.0, *(reading for reading in readings() if not isinstance(reading, Tick)))
    finish(recorder)
    async with console(tmp_path) as (app, pilot):
        live = [pane_text(pane) for pane in app.dashboard.line_panes]
        await pilot.press("b")
        await until(lambda: app.in_past and app.view.queue.is_mounted and "PAST" in shown(app), "the past")
        await until(lambda: [pane_text(pane) for pane in app.view.line_panes] == live, "the same lines in every pane")
        assert all(live)


async def test_in_the_past_nothing_that_changes_the_world_is_reached(tmp_path: Path) -> None:
    async with past(tmp_path) as (app, pilot):
        for action in allowed(False):
            if not action.past:
                await app.action_do(action.id)
                assert app.screen is app.view, action.id
                assert "This is the past" in app.view.events.lines[-1].text
        assert not [a for a in allowed(False, past=True) if a.effect is Effect.CHANGES]
        commands = [command.title for command in app.get_system_commands(app.screen)]
        assert not [title for title in commands if title.startswith(("Break", "start queue", "probe"))]
        await pilot.press("t", *"hello", "enter")
        await until(lambda: "the past: decided, not sent" in shown(app), "a decision without sending")
        await pilot.press("left", "right")
        assert app.view.router.prompt.has_focus
        await pilot.press("escape", "3", "enter")
        await pilot.pause()
        assert isinstance(app.screen, HistoryScreen | TextScreen)


async def test_details_help_and_events_are_of_that_moment(tmp_path: Path) -> None:
    async with past(tmp_path) as (app, pilot):
        await pilot.press("left")
        await until(lambda: "REFUSED at" in shown(app), "the refusal")
        await pilot.press("1", "j", "enter")
        await until(lambda: isinstance(app.screen, TextScreen) and "REFUSED at" in shown(app), "the details then")
        await pilot.press("escape", "question_mark")
        await until(lambda: "back to now" in shown(app), "the keys of the past")
        assert "Plan the start" not in shown(app)


async def test_another_inventory_brings_other_panes(tmp_path: Path) -> None:
    path = history_path(tmp_path, "lumina", loaded().path)
    record(path)
    endpoint = Endpoint(name="new/one", tier="LOCAL", engine="http", url="http://10.0.10.9:1")
    inventory = loaded().inventory
    inventory = Inventory.model_validate(inventory.model_dump() | {"endpoints": (*inventory.endpoints, endpoint)})
    recorder = Recorder(path, inventory, lambda text: None)
    play = Live(recorder, inventory)
    play(-100.0, probe(Cause.REFUSED, -100.0, "new/one"))
    finish(recorder)
    async with console(tmp_path) as (app, pilot):
        await pilot.press("b")
        await until(lambda: app.in_past and "new/one" in shown(app), "the panes of the later inventory")
        await pilot.press("left")
        await until(lambda: app.in_past and "new/one" not in shown(app), "the panes of the earlier one")
        await pilot.press("right")
        await until(lambda: app.in_past and "new/one" in shown(app), "those of the later one again")
        await pilot.press("escape")
        await until(lambda: app.screen is app.dashboard, "now")


async def test_without_a_history_it_says_so(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.press("b")
        await until(lambda: "Nothing is recorded yet" in shown(app), "the words")
        await pilot.press("colon", *"earlier", "enter")
        await until(lambda: "Only in the past" in shown(app), "the refusal")


async def test_a_replay_has_no_now(tmp_path: Path) -> None:
    path = tmp_path / "incident.tierdeck"
    record(path)
    async with console(tmp_path, replay=path, read_only=True, feed=cast("type[Feed]", Never)) as (app, pilot):
        await until(lambda: app.in_past and "REPLAY" in shown(app) and "PAST -" in shown(app), "the past")
        await pilot.press("escape")
        await until(lambda: "there is no now" in shown(app), "the words")
        assert app.in_past


class Never:
    """A feed that must not run."""

    snapshot = Live(None).seen  # type: ignore[arg-type]

    def __init__(self, *arguments: Any) -> None:
        self.clock = self

    def now(self) -> Instant:
        return NOW

    async def run(self) -> None:
        raise AssertionError("a replay reads nothing")


@pytest.mark.parametrize("size", ["160x45", "80x24"])
async def test_pictures(size: str, svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with past(tmp_path, size=SIZES[size]) as (app, pilot):
        await pilot.press("left")
        await until(lambda: app.view.snapshot.endpoints["local/ollama"].cause is Cause.REFUSED, "the refusal")
        assert await picture(app) == svg(name=f"past-{size}")


def test_a_timeline_stops_at_changes_and_steps(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    record(path)
    timeline = Timeline(Recording(path))
    assert timeline.index == len(timeline.stops) - 1
    assert not timeline.move(1)
    seen = [timeline.here.at]
    while timeline.move(-1):
        seen.append(timeline.here.at)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == len(set(seen)) == len(timeline.stops)
    assert timeline.move(1, changes=True)
    assert timeline.here.is_change
    timeline.close()
