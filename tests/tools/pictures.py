"""The demo in four pictures (docs/demo): a node loses its Docker, `r` brings it back, a prompt finds its model.

`make pictures` takes them from the program; what moves on them is as it was at that moment, so nothing compares them.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from textual.pilot import Pilot

from backends.cluster.files import load
from backends.cluster.words import State
from backends.procedures.commands import Procedures
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from tests.tui.driving import shown, until
from tui.app import TierdeckApp
from tui.setup import Setup

FOLDER = Path(__file__).parents[2] / "docs/demo"
SIZE = (110, 32)
PACE = 8.0
"""How many times as fast as real models the simulated ones start."""
LIMIT = 60.0
PROMPT = "write a bash loop that restarts every container whose log says CUDA error"


class Console(TierdeckApp):
    """The console, which finds its styles although its class lies here."""

    CSS_PATH = str(Path(inspect.getfile(TierdeckApp)).with_name("app.tcss"))


class Scene:
    """The console as a person uses it, and a camera."""

    def __init__(self, app: TierdeckApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    async def sees(self, *words: str) -> None:
        """Wait until all of these words stand on the screen."""
        try:
            await self.when(lambda: all(word in shown(self.app) for word in words), f"{words}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows:\n{shown(self.app)}") from None

    async def when(self, condition: Callable[[], object], what: str) -> None:
        """Wait until it is so, and drawn."""
        await until(condition, what, limit=LIMIT)
        await self.pilot.pause()

    def take(self, name: str) -> None:
        """Keep what stands on the screen."""
        (FOLDER / f"{name}.svg").write_text(self.app.export_screenshot(title="tierdeck"), encoding="utf-8")


async def play(sim: SimulatedCluster, scene: Scene) -> None:
    """The scene from the fault to the answer."""
    app, pilot = scene.app, scene.pilot
    await scene.when(lambda: app.feed.snapshot.prognosis.state is State.HEALTHY, "all is well")
    await sim.inflict(next(fault for fault in sim.faults if fault.id == "docker-mark"))
    await scene.sees("REMOTE   ✗ DOWN", "Docker on mark")
    scene.take("1-ill")
    await pilot.press("1", "j", "j", "r")
    await scene.sees("Recover mark", "Cancel")
    scene.take("2-plan")
    await pilot.press("tab", "enter")
    await scene.sees("Esc detach", "mark-iii", "loading")
    scene.take("3-recovering")
    await scene.sees("done", "Esc back")
    await pilot.press("escape")
    await scene.when(lambda: app.feed.snapshot.prognosis.state is State.HEALTHY, "all is well again")
    await pilot.press("t")
    await pilot.press(*PROMPT)
    await pilot.press("enter")
    await scene.sees("tok/s")
    scene.take("4-router")


async def main() -> None:
    """Take all four."""
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="td") as name:
        folder = Path(name)
        state = folder / "state"
        state.mkdir(mode=0o700)
        async with demo(folder / "sim", speed=PACE) as sim:
            os.environ.update(sim.secrets)
            setup = Setup(loaded=load(sim.inventory_path), state_dir=state)
            async with (app := Console(setup)).run_test(size=SIZE) as pilot:
                await play(sim, Scene(app, pilot))
            for procedure in Procedures(state, sim.inventory_path).list():
                assert not procedure.open, procedure


if __name__ == "__main__":
    asyncio.run(main())
