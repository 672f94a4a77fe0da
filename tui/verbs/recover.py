"""`tierdeck recover`: a node brought back, by the least invasive rung that can help."""

from __future__ import annotations

import argparse
import asyncio
import sys

from backends.cluster.faults import Fault
from backends.cluster.inventory import Inventory
from backends.cluster.words import PLACING
from backends.errors import ProcedureError, TierdeckError
from tui.arguments import USAGE
from tui.verbs.carrying import carry_out, would_ask
from tui.verbs.opening import Opened, open_cluster


def run(arguments: argparse.Namespace) -> int:
    """Diagnose, plan, confirm and climb, node by node."""
    if would_ask(arguments, "recover"):
        return USAGE
    opened = open_cluster(arguments)
    nodes = _nodes(opened.loaded.inventory, arguments.target, everything=arguments.all)
    if arguments.start in PLACING and len(nodes) != 1:
        raise ProcedureError(f"One node at a time: {arguments.start} {' or '.join(nodes)}?")
    if len(nodes) == 1:
        return asyncio.run(_recover(opened, nodes[0], arguments))
    codes = [asyncio.run(_each(opened, node, arguments)) for node in nodes]
    return max(codes)


async def _each(opened: Opened, node: str, arguments: argparse.Namespace) -> int:
    """One of several: what hinders it hinders no other."""
    try:
        return await _recover(opened, node, arguments)
    except TierdeckError as error:
        print(f"tierdeck: {error}", file=sys.stderr)
        return 1


async def _recover(opened: Opened, node: str, arguments: argparse.Namespace) -> int:
    from backends.procedures.recovery import plan_recovery
    from tui.verbs.diagnose import diagnosed

    diagnosis, snapshot = await diagnosed(opened, node)
    if arguments.start in PLACING:
        from backends.procedures.draining import prepare_placing
        from tui.verbs.boot import reached

        async with reached(opened) as asked:
            plan = await prepare_placing(opened.loaded.inventory, snapshot, node, arguments.start, asked.runtime)
        return await carry_out(plan, opened, arguments)
    if diagnosis.fault is Fault.NONE and arguments.start is None:
        print(f"tierdeck: {node}: nothing is wrong, so nothing is done.", file=sys.stderr)
        return 0
    plan = plan_recovery(opened.loaded.inventory, snapshot, diagnosis, start=arguments.start)
    return await carry_out(plan, opened, arguments)


def _nodes(inventory: Inventory, target: str | None, *, everything: bool) -> list[str]:
    """The nodes that a target is about; the gateway's comes last, since it waits for the others."""
    if everything:
        names = list(inventory.node_named)
    elif target in inventory.node_named:
        names = [target]
    elif target in inventory.endpoint_named:
        names = [inventory.endpoint_named[target].node or ""]
    else:
        names = [e.node or "" for e in inventory.endpoints_of.get(target or "", ())]
    names = [name for name in dict.fromkeys(names) if name]
    if not names:
        known = ", ".join(inventory.node_named) or "none"
        raise ProcedureError(f'"{target or ""}" is no node, and no tier or endpoint of one.', f"Nodes: {known}.")
    gateways = {e.node for e in inventory.endpoints if e.engine == "litellm"}
    return sorted(names, key=lambda name: name in gateways)
