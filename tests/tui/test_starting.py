"""A prompt in the console that only a model could answer which is on demand and off: asked for, started, answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

from backends.cluster.files import load
from backends.simulator.cluster import SimulatedCluster
from tests.cli.shelf import RUNNING, running, shelf
from tests.tui.driving import console, shown, until
from tui.app import TierdeckApp
from tui.feed import Feed


@asynccontextmanager
async def desk(tmp_path: Path, task: str) -> AsyncIterator[tuple[SimulatedCluster, TierdeckApp, Pilot[None]]]:
    """A small console before that node, a prompt typed that would have to start something."""
    state = tmp_path / "state"
    sim = shelf(tmp_path / "sim", state)
    sim.extra = {"defaults": {"interval": "500ms"}}
    async with sim, console(state, loaded=load(sim.inventory_path), feed=Feed, size=(80, 24)) as (app, pilot):
        await until(lambda: app.feed.snapshot.nodes["mark"].gpus, "its GPU is read", limit=60.0)
        await until(lambda: app.feed.snapshot.endpoints["mark/new"].cause == "OFF", "it is seen to be off", limit=60.0)
        app.dashboard.router.forced = task
        await pilot.press("t")
        app.dashboard.router.prompt.load_text("hello")
        await until(lambda: "off: on demand" in shown(app), "the decision")
        await pilot.press("enter")
        yield sim, app, pilot


async def test_it_is_started_by_a_persons_word_and_the_prompt_follows(tmp_path: Path, short_sockets: None) -> None:
    async with desk(tmp_path, "code") as (sim, app, pilot):
        await until(lambda: "Start mark/new for this prompt?" in shown(app), shown(app))
        assert "cold: mark/new would have to start, about 4 s; stops one" in shown(app)
        assert "docker stop one" in shown(app)
        await pilot.press("enter")
        await until(lambda: "nothing was started" in shown(app), "Cancel has the focus")
        assert running(sim) == list(RUNNING)
        app.dashboard.router.prompt.load_text("hello again")
        await pilot.press("enter")
        await until(lambda: "Start mark/new for this prompt?" in shown(app), "asked again")
        await pilot.press("right", "enter")
        await until(lambda: "tok/s" in shown(app), "the answer is followed to its end", limit=60.0)
        assert running(sim) == ["always", "two", "new"]
        assert sim.endpoints["mark/new"].engine.requests["POST /v1/chat/completions"] == 1


async def test_what_would_not_fit_is_said_and_not_asked(tmp_path: Path, short_sockets: None) -> None:
    async with desk(tmp_path, "reason") as (sim, app, _):
        await until(lambda: "mark/huge takes about" in shown(app), shown(app))
        assert "for this prompt?" not in shown(app)
        assert running(sim) == list(RUNNING)


async def test_a_start_that_fails_sends_nothing(tmp_path: Path, short_sockets: None) -> None:
    async with desk(tmp_path, "code") as (sim, app, pilot):
        sim.nodes["mark"].container("new").error = "driver failed programming"
        await until(lambda: "Start mark/new for this prompt?" in shown(app), shown(app))
        await pilot.press("right", "enter")
        await until(lambda: "Answer it: p" in shown(app), "its question", limit=60.0)
        await app.feed.world.control(app.feed.snapshot.procedures[0].id, "abort")
        await until(lambda: "mark/new did not start" in shown(app), "its end", limit=60.0)
