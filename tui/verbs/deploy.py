"""`tierdeck deploy`: from a model to a served, routed endpoint, planned, shown, confirmed, followed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tui.cli import USAGE
from tui.verbs.opening import Opened, open_cluster


def run(arguments: argparse.Namespace) -> int:
    """Plan it, and carry it out if that is confirmed."""
    from backends.cluster.deploying import load_spec

    if getattr(arguments, "json", False) and not (arguments.yes or arguments.dry_run):
        print("tierdeck: deploy --json needs --yes or --dry-run: it never asks.", file=sys.stderr)
        return USAGE
    opened = open_cluster(arguments)
    path = Path(arguments.spec).expanduser()
    load_spec(path)
    return asyncio.run(_run(opened, arguments, path))


async def _run(opened: Opened, arguments: argparse.Namespace, path: Path) -> int:
    from backends.cluster.deploying import load_spec
    from backends.world import World
    from tui.verbs.carrying import carry_out

    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        plan = await world.plan_deploy(load_spec(path), force=arguments.force, roll_back=arguments.rollback)
    return await carry_out(plan, opened, arguments)
