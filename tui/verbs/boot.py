"""`tierdeck queue boot`: lets a node's start queue, and nothing else, start its GPU containers at boot."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tui.verbs.opening import Opened

if TYPE_CHECKING:
    from backends.cluster.snapshot import ClusterSnapshot
    from backends.reach.reaches import Reaches
    from backends.reach.runtime import Runtime, Shell

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at a node whose Docker does not answer yet."""


def boot(opened: Opened, arguments: argparse.Namespace) -> int:
    """Plan it, and carry it out if that is confirmed."""
    return asyncio.run(_boot(opened, arguments))


async def _boot(opened: Opened, arguments: argparse.Namespace) -> int:
    from backends.procedures.boot import prepare_boot
    from backends.world import survey
    from tui.verbs.carrying import carry_out

    snapshot = await survey(opened.loaded, opened.here, opened.state_dir)
    async with reached(opened) as outside:
        plan = await prepare_boot(
            opened.loaded.inventory,
            snapshot,
            arguments.node,
            outside,
            program=arguments.program or program_of(opened, arguments.node),
            cluster=cluster_of(opened, arguments.node),
        )
    return await carry_out(plan, opened, arguments)


@dataclass(frozen=True, slots=True)
class Reached:
    """The nodes as a plan's maker asks them."""

    reaches: Reaches

    def shell(self, node: str) -> Shell:
        """Runs commands on a node; SshError where there is no way to it."""
        return self.reaches[node].shell

    async def runtime(self, node: str, kind: str) -> Runtime:
        """What drives the workloads of one kind on a node."""
        return await self.reaches[node].runtime_of(kind)


@asynccontextmanager
async def reached(opened: Opened) -> AsyncGenerator[Reached, None]:
    """The nodes of a cluster, connected to as they are needed and closed on leaving."""
    from backends.reach.reaches import Reaches
    from backends.secrets import Secrets

    async with Reaches(opened.loaded.inventory, opened.here, Secrets()) as reaches:
        yield Reached(reaches)


def program_of(opened: Opened, node: str) -> str:
    """The tierdeck that runs now, if it is the one of that node; "" where the node must be asked."""
    program = Path(sys.executable).parent / "tierdeck"
    return str(program) if node == opened.here and program.is_file() else ""


def cluster_of(opened: Opened, node: str) -> str:
    """The cluster.toml that is read now, if it lies on that node; "" where the node must be asked."""
    return str(opened.loaded.path.absolute()) if node == opened.here else ""


async def survey_patiently(opened: Opened, node: str, patience: float) -> ClusterSnapshot:
    """One pass over everything, again until what runs on `node` is known, or for `patience` seconds."""
    from backends.world import survey

    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    said = ""
    while True:
        snapshot = await survey(opened.loaded, opened.here, opened.state_dir)
        state = snapshot.nodes[node]
        trouble = state.workloads_trouble or state.reach_trouble
        if trouble is None or loop.time() >= deadline:
            return snapshot
        if trouble.message != said:
            said = trouble.message
            print(f"tierdeck: waiting for {node}: {said}", file=sys.stderr, flush=True)
        await asyncio.sleep(LOOK_EVERY)
