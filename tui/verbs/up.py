"""`tierdeck up`: starts a model that is on demand, if it fits, others on demand making room."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tui.arguments import USAGE
from tui.verbs.opening import Opened, open_cluster


def run(arguments: argparse.Namespace) -> int:
    """Plan it, and carry it out if that is confirmed."""
    if getattr(arguments, "json", False) and not (arguments.yes or arguments.dry_run):
        print("tierdeck: up --json needs --yes or --dry-run: it never asks.", file=sys.stderr)
        return USAGE
    return asyncio.run(_run(open_cluster(arguments), arguments))


async def _run(opened: Opened, arguments: argparse.Namespace) -> int:
    from backends.procedures.demand import found
    from backends.world import World
    from tui.verbs.carrying import carry_out

    found(opened.loaded.inventory, arguments.model)
    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        plan = world.plan_up(arguments.model, await world.look())
    if not plan.targets and not arguments.dry_run:
        print(f"tierdeck: {plan.title}: it runs and is ready; nothing is to be done.", file=sys.stderr)
        return 0
    return await carry_out(plan, opened, arguments)
