"""`tierdeck reboot`: a node's work ended, the machine gone and back, its queue started again."""

from __future__ import annotations

import argparse
import asyncio

from tui.arguments import USAGE
from tui.verbs.carrying import carry_out, would_ask
from tui.verbs.opening import Opened, known_node, open_cluster


def run(arguments: argparse.Namespace) -> int:
    """Plan, confirm, carry out; exit 3 where the node is not reached."""
    if would_ask(arguments, "reboot"):
        return USAGE
    opened = open_cluster(arguments)
    known_node(opened, arguments.node)
    return asyncio.run(_reboot(opened, arguments.node, arguments))


async def _reboot(opened: Opened, node: str, arguments: argparse.Namespace) -> int:
    from backends.world import World

    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        plan = await world.plan_reboot(node)
    return await carry_out(plan, opened, arguments)
