"""`tierdeck demo`: the console on an embedded cluster; nothing outside this machine's loopback is touched."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.simulator.cluster import SimulatedCluster


def run(arguments: argparse.Namespace) -> int:
    """Open the demo, or with --hold only keep its cluster running."""
    from tui.verbs.console import prepare_terminal

    if not arguments.hold:
        prepare_terminal(os.environ)
    with tempfile.TemporaryDirectory(prefix="tierdeck-demo-") as folder:
        return asyncio.run(_demo(arguments, Path(folder)))


async def _demo(arguments: argparse.Namespace, folder: Path) -> int:
    from backends.simulator.demo import demo

    async with demo(folder, visitors=True) as sim:
        os.environ.update(sim.secrets)  # the demo's own keys, so that its runners resolve env: references, too
        if arguments.hold:
            return await _hold(sim)
        return await _console(arguments, sim, folder)


async def _hold(sim: SimulatedCluster) -> int:
    print(sim.inventory_path, flush=True)
    for name, value in sim.secrets.items():
        print(f"{name}={value}", flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    return 0


async def _console(arguments: argparse.Namespace, sim: SimulatedCluster, folder: Path) -> int:
    from backends.cluster.files import load
    from tui.app import TierdeckApp
    from tui.setup import Demo, Setup
    from tui.verbs.console import glyphs, opened

    faults = {fault.id: fault for fault in sim.faults}

    async def inflict(fault: str) -> None:
        await sim.inflict(faults[fault])

    state = folder / "state"
    state.mkdir(mode=0o700)
    app = TierdeckApp(
        Setup(
            loaded=load(sim.inventory_path),
            state_dir=state,
            glyphs=glyphs(arguments, os.environ),
            read_only=getattr(arguments, "read_only", False),
            over_ssh="SSH_CONNECTION" in os.environ,
            demo=Demo(tuple(sim.faults), inflict, sim.heal_all),
        )
    )
    return await opened(app)
