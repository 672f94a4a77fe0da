"""A running console goes on with a changed inventory: what is new is polled, what went is let go, the rest stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from backends.cluster.files import load
from backends.history.recording import Recording
from backends.history.store import history_path
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.vllm import Vllm
from tests.tui.driving import console, shown, until
from tui.app import TierdeckApp
from tui.feed import Feed


@dataclass
class Desk:
    """A console on two endpoints of a node that it reaches by SSH; a third runs that no file names yet."""

    sim: SimulatedCluster
    app: TierdeckApp
    pilot: Pilot[None]
    state: Path

    @property
    def fragment(self) -> Path:
        return self.sim.inventory_path.parent / "cluster.d" / "deploy-new.toml"

    def deployed(self) -> None:
        """What a deployment writes."""
        url = self.sim.endpoints["new"].server.url
        self.fragment.parent.mkdir(exist_ok=True)
        self.fragment.write_text(
            f'[[endpoints]]\nname = "mark/new"\ntier = "LOCAL"\nnode = "mark"\nengine = "llama.cpp"\nurl = "{url}"\n'
            '[joins.queue]\nmark = ["new"]\n'
        )

    def asked(self, name: str) -> int:
        return sum(self.sim.endpoints[name].engine.requests.values())

    async def sees(self, *words: str) -> None:
        await until(lambda: all(each in shown(self.app) for each in words), f"{words} in\n{shown(self.app)}")


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr("backends.reloading.LOOK", 0.05)
    sim = SimulatedCluster(tmp_path / "sim", speed=20.0)
    sim.add_node("mark", docker=False)
    sim.add_endpoint("a", LlamaCpp(sim.world, models=["/m/a.gguf"]), node="mark")
    sim.add_endpoint("b", Vllm(sim.world, models=["qwen"]), node="mark")
    sim.add_endpoint("new", LlamaCpp(sim.world, models=["/m/new.gguf"]))
    sim.extra = {"defaults": {"interval": "1s"}}
    async with sim:
        sim.inventory_path.write_text(sim.inventory.partition('[[endpoints]]\nname = "new"')[0])
        options: dict[str, Any] = {"loaded": load(sim.inventory_path), "feed": Feed}
        (tmp_path / "state").mkdir()
        async with console(tmp_path / "state", **options) as (app, pilot):
            await until(lambda: all(e.serving for e in app.feed.snapshot.endpoints.values()), "all serve")
            yield Desk(sim, app, pilot, tmp_path / "state")


def pollers() -> list[str]:
    """The names of the tasks that poll."""
    return sorted(t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("poll "))


async def test_a_new_endpoint_is_polled_and_shown_and_goes_again(desk: Desk) -> None:
    app, former = desk.app, pollers()
    link = app.feed.world._reaches["mark"]
    await desk.pilot.press("down", "down")
    assert app.dashboard.selection() == "endpoint:b"
    assert desk.asked("new") == 0
    desk.deployed()
    await until(lambda: "mark/new" in app.feed.snapshot.endpoints, "the new endpoint")
    await until(lambda: app.feed.snapshot.endpoints["mark/new"].serving, "its verdict")
    await desk.sees("mark/new", "the inventory was read anew: + mark/new", "3/3")
    assert app.dashboard.selection() == "endpoint:b", "what is selected stays so"
    assert app.feed.snapshot.endpoints["a"].ever_up
    assert len(pollers()) == len(former) + 1
    assert app.feed.world._reaches["mark"] is link, "its connection stays open"
    assert app.setup.loaded.inventory.node_named["mark"].queue.order == ("new",)
    desk.fragment.unlink()
    await until(lambda: "mark/new" not in app.feed.snapshot.endpoints, "its end")
    await desk.sees("the inventory was read anew: - mark/new", "2/2")
    await until(lambda: pollers() == former, "the end of what polled it")
    seen = desk.asked("new")
    before = desk.asked("a")
    await until(lambda: desk.asked("a") > before + 1, "further rounds")
    assert desk.asked("new") == seen, "nobody asks it any more"


async def test_details_of_what_went_say_so(desk: Desk) -> None:
    desk.deployed()
    await until(lambda: "mark/new" in desk.app.feed.snapshot.endpoints, "the new endpoint")
    desk.app.commands.details("endpoint:mark/new")
    await desk.sees("verdict")
    desk.fragment.unlink()
    await desk.sees("nothing is known about endpoint:mark/new")


async def test_a_broken_file_keeps_what_was_read_and_says_so_once(desk: Desk) -> None:
    app, inventory = desk.app, desk.app.setup.loaded.inventory
    desk.fragment.parent.mkdir()
    desk.fragment.write_text('[[endpoints]]\nname = "x"\nengine = "vllm"\n')
    await desk.sees("the inventory stays as it was read before: ")
    told = [row.text for row in app.dashboard.events.lines if "stays as it was" in row.text]
    assert 'deploy-new.toml, line 1: "tier" is missing in endpoints "x".' in told[0]
    before = desk.asked("a")
    await until(lambda: desk.asked("a") > before + 1, "polling goes on")
    assert app.setup.loaded.inventory == inventory
    assert shown(app).count("stays as it was") == 1
    desk.deployed()
    await desk.sees("the inventory was read anew: + mark/new")


async def test_an_endpoint_that_is_asked_elsewhere_begins_anew(desk: Desk) -> None:
    desk.sim.endpoints["b"].engine.requests.clear()
    text = desk.sim.inventory_path.read_text()
    gone = text.replace(desk.sim.endpoints["b"].server.url, "http://127.0.0.1:9")
    desk.sim.inventory_path.write_text(gone)
    await desk.sees("the inventory was read anew: ~ b")
    await until(lambda: desk.app.feed.snapshot.endpoints["b"].cause == "REFUSED", "its new address")
    assert not desk.app.feed.snapshot.endpoints["b"].ever_up


async def test_history_goes_on_with_the_new_inventory(desk: Desk) -> None:
    desk.deployed()
    await until(lambda: desk.app.feed.snapshot.endpoints.get("mark/new", None) is not None, "the new endpoint")
    await until(lambda: desk.app.feed.snapshot.endpoints["mark/new"].serving, "its verdict")
    loaded = desk.app.setup.loaded
    path = history_path(desk.state, loaded.inventory.name, loaded.path)

    def recorded() -> bool:
        with Recording(path) as recording:
            past = recording.latest()
        return "mark/new" in past.inventory.endpoint_named and past.snapshot.endpoints["mark/new"].serving

    await until(recorded, "its verdict on disk")
