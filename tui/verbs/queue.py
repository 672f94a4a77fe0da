"""`tierdeck queue`: a node's start queue, shown or run."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from tui.arguments import USAGE
from tui.verbs.carrying import carry_out, would_ask
from tui.verbs.opening import Opened, known_node, open_cluster


def run(arguments: argparse.Namespace) -> int:
    """Show or run it."""
    as_json = getattr(arguments, "json", False)
    if arguments.what == "run" and would_ask(arguments, "queue run"):
        return USAGE
    opened = open_cluster(arguments)
    known_node(opened, arguments.node)
    if arguments.what == "boot":
        from tui.verbs.boot import boot

        return boot(opened, arguments)
    if arguments.what == "show":
        return _show(opened, arguments.node, as_json=as_json)
    return asyncio.run(_run(opened, arguments))


def _show(opened: Opened, node: str, *, as_json: bool) -> int:
    from backends.cluster.report import iso
    from backends.world import survey

    snapshot = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir))
    inventory, state = opened.loaded.inventory, snapshot.nodes[node]
    trouble = state.workloads_trouble or state.reach_trouble
    if trouble is not None:
        print(f"tierdeck: {trouble.message} {trouble.advice}", file=sys.stderr)
        return 3
    known = {w.name: w for w in state.workloads}
    order = inventory.node_named[node].queue.order
    names = list(dict.fromkeys([*order, *(w.name for w in state.workloads if w.gpu)]))
    rows = []
    for name in names:
        workload = known.get(name)
        endpoint = next((e for e in inventory.endpoints if e.node == node and e.container == name), None)
        health = snapshot.endpoints[endpoint.name] if endpoint else None
        rows.append(
            {
                "position": order.index(name) + 1 if name in order else None,
                "container": name,
                "state": workload.state if workload else "missing",
                "ready": health.serving if health else None,
                "cause": health.cause.value if health and health.cause else None,
                "gpu": workload.gpu if workload else None,
                "restart_policy": workload.restart_policy if workload else None,
            }
        )
    if as_json:
        taken = iso(snapshot.taken)
        print(json.dumps({"schema": "tierdeck.queue/1", "node": node, "taken_at": taken, "queue": rows}))
    else:
        for row in rows:
            position = f"{row['position']}." if row["position"] else "-"
            print(f"{position:<4}{row['container']}  {row['state']}  {row['cause'] or ''}".rstrip())
    return 0


async def _run(opened: Opened, arguments: argparse.Namespace) -> int:
    from backends.procedures.startup import plan_queue
    from tui.verbs.boot import survey_patiently

    snapshot = await survey_patiently(opened, arguments.node, arguments.wait)
    only = [name.strip() for name in arguments.only.split(",")] if arguments.only else None
    plan = plan_queue(opened.loaded.inventory, snapshot, arguments.node, only=only, restart=arguments.restart)
    return await carry_out(plan, opened, arguments)
