"""Keys at random against the console, while the cluster under it falls ill and recovers: it answers, or it closes."""

from __future__ import annotations

import inspect
import os
import random
import time
from pathlib import Path
from typing import ClassVar

import pytest
from textual.pilot import Pilot

from backends.cluster.files import load
from backends.procedures.commands import Procedures
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from tests.fuzz.strategies import TIMES
from tui.actions import ACTIONS
from tui.app import TierdeckApp
from tui.setup import Demo, Setup

SECONDS = 6.0 * TIMES
"""Of typing."""

SEED = int(os.environ.get("TIERDECK_FUZZ_SEED", "10" if TIMES == 1 else str(time.time_ns())))

KEYS = [key for action in ACTIONS for key in action.keys if action.id != "detach"]
MOVES = ["up", "down", "left", "right", "home", "end", "pageup", "pagedown", "tab", "shift+tab", "enter", "escape", "h"]
MOVES += [
    "j",
    "k",
    "l",
    "g",
    "G",
    "space",
    "J",
    "K",
    "delete",
    "backspace",
    "ctrl+j",
    "ctrl+t",
    "ctrl+u",
    "f1",
    "y",
    "n",
]
WORDS = ["mark", "remote/mark-v", "quit", "probe", "]0;x", "[bold]", "\\", "漢", "é", '"', "$(", "a" * 200]
SIZES = [(160, 45), (80, 24), (46, 30), (20, 5), (1, 1), (300, 80)]


class Watched(TierdeckApp):
    """The console, and what of ours broke in it."""

    CSS_PATH = str(Path(inspect.getfile(TierdeckApp)).with_name("app.tcss"))
    crashes: ClassVar[list[str]] = []

    def source_crashed(self, key: str, error: Exception) -> None:
        self.crashes.append(f"{key}: {error!r}")
        super().source_crashed(key, error)


async def one_more(pilot: Pilot[None], sim: SimulatedCluster, chance: random.Random) -> str:
    """Do one thing that a person, or a cat, may do; what it was."""
    what = chance.choices(["key", "move", "words", "resize", "break", "heal"], [10, 12, 3, 1, 1, 1])[0]
    if what in ("key", "move"):
        key = chance.choice(KEYS if what == "key" else MOVES)
        await pilot.press(key)
        return key
    if what == "words":
        word = chance.choice(WORDS)
        await pilot.press(*word)
        return repr(word)
    if what == "resize":
        size = chance.choice(SIZES)
        await pilot.resize_terminal(*size)
        return str(size)
    if what == "heal":
        await sim.heal_all()
        return "heal all"
    fault = chance.choice(sim.faults)
    await sim.inflict(fault)
    return fault.id


@pytest.mark.parametrize("read_only", [False, True], ids=["", "read-only"])
async def test_no_key_ends_the_console(
    read_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    said: list[str] = []
    sim = demo(tmp_path / "sim", speed=20.0)
    async with sim:
        for name, value in sim.secrets.items():
            monkeypatch.setenv(name, value)
        ending = time.monotonic() + SECONDS / 2
        while time.monotonic() < ending:
            app = await typing(sim, tmp_path, chance, said, ending, read_only=read_only)
            told = f"seed {SEED}: {' '.join(said[-60:])}\n{capsys.readouterr()}"
            assert app._exception is None, told
            assert app.return_code in (0, None), told
            assert app.crashes == [], told
        procedures = Procedures(tmp_path / "state", sim.inventory_path)
        for procedure in procedures.list():
            if procedure.open:
                await procedures.cancel(procedure.id)


async def typing(
    sim: SimulatedCluster, folder: Path, chance: random.Random, said: list[str], ending: float, *, read_only: bool
) -> Watched:
    """One console on the simulated cluster, typed at until it closes or the time is over."""

    async def inflict(fault: str) -> None:
        await sim.inflict(next(f for f in sim.faults if f.id == fault))

    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    setup = Setup(
        loaded=load(sim.inventory_path), state_dir=state, read_only=read_only,
        demo=Demo(tuple(sim.faults), inflict, sim.heal_all),
    )  # fmt: skip
    app = Watched(setup)
    said.append("(opened)")
    async with app.run_test(size=(160, 45)) as pilot:
        while app.is_running and app._exception is None and time.monotonic() < ending:
            said.append(await one_more(pilot, sim, chance))
    return app
