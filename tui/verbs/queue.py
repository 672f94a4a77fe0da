"""`tierdeck queue`: a node's start queue, shown or run."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING

from backends.errors import ProcedureError
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from backends.cluster.snapshot import ClusterSnapshot
    from backends.procedures.plan import Plan

USAGE = 2


def run(arguments: argparse.Namespace) -> int:
    """Show or run it."""
    as_json = getattr(arguments, "json", False)
    if arguments.what == "run" and as_json and not (arguments.yes or arguments.dry_run):
        print("tierdeck: queue run --json needs --yes or --dry-run: it never asks.", file=sys.stderr)
        return USAGE
    opened = open_cluster(arguments)
    _known(opened, arguments.node)
    if arguments.what == "boot":
        from tui.verbs.boot import boot

        return boot(opened, arguments)
    if arguments.what == "show":
        return _show(opened, arguments.node, as_json=as_json)
    return asyncio.run(_run(opened, arguments, as_json=as_json))


def _known(opened: Opened, node: str) -> None:
    names = opened.loaded.inventory.node_named
    if node not in names:
        raise ProcedureError(f'There is no node "{node}".', f"Known: {', '.join(names) or 'none'}.")


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


async def _run(opened: Opened, arguments: argparse.Namespace, *, as_json: bool) -> int:
    from backends.procedures.commands import Procedures
    from backends.procedures.plan import Danger, describe, to_json
    from backends.procedures.startup import plan_queue
    from tui.verbs.boot import survey_patiently
    from tui.verbs.following import can_ask, confirm, follow

    snapshot: ClusterSnapshot = await survey_patiently(opened, arguments.node, arguments.wait)
    only = [name.strip() for name in arguments.only.split(",")] if arguments.only else None
    plan: Plan = plan_queue(opened.loaded.inventory, snapshot, arguments.node, only=only, restart=arguments.restart)
    if arguments.dry_run:
        print(json.dumps(to_json(plan), ensure_ascii=False) if as_json else "\n".join(describe(plan)))
        return 0
    print("\n".join(describe(plan)), file=sys.stderr)
    if plan.danger is Danger.INTERRUPTS and not arguments.interrupt and (arguments.yes or not can_ask()):
        print("tierdeck: this interrupts running work: say --interrupt too.", file=sys.stderr)
        return USAGE
    if not arguments.yes:
        if not can_ask():
            print("tierdeck: nobody can be asked here: say --yes or --dry-run.", file=sys.stderr)
            return USAGE
        if not confirm("Run it?"):
            return 1
    procedures = Procedures(opened.state_dir, opened.loaded.path)

    async def begin() -> str:
        procedure = await procedures.start(plan, attended=not arguments.yes)
        print(f"tierdeck: procedure {procedure}; attach with: tierdeck procedures attach {procedure}", file=sys.stderr)
        return procedure

    return await follow(procedures, begin(), as_json=as_json)
