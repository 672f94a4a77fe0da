"""`tierdeck diagnose`: one node looked at from all sides, its fault named, and the plan that follows from it."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from backends.cluster.faults import Diagnosis, Fault
from backends.cluster.snapshot import ClusterSnapshot
from backends.errors import ProcedureError
from tui.verbs.opening import Opened, known_node, open_cluster


def run(arguments: argparse.Namespace) -> int:
    """Look, and tell."""
    opened = open_cluster(arguments)
    known_node(opened, arguments.node)
    diagnosis, snapshot = asyncio.run(diagnosed(opened, arguments.node))
    if getattr(arguments, "json", False):
        print(json.dumps(_json(opened, diagnosis, snapshot), ensure_ascii=False))
    else:
        print("\n".join([*lines(diagnosis), *_plan_lines(opened, diagnosis, snapshot)]))
    return 0


async def diagnosed(opened: Opened, node: str) -> tuple[Diagnosis, ClusterSnapshot]:
    """The diagnosis of a node, and the cluster as it was seen meanwhile."""
    from backends.world import World

    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        return await world.diagnose(node)


def lines(diagnosis: Diagnosis) -> list[str]:
    """The fault and its evidence, for people."""
    room = max((len(check.name) for check in diagnosis.checks), default=0)
    seen = [
        f"  {check.state:<8} {check.name:<{room}}  {check.words}  ({check.seconds:.1f} s)" for check in diagnosis.checks
    ]
    return [f"{diagnosis.node}: {diagnosis.sentence}", *seen]


def _plan_lines(opened: Opened, diagnosis: Diagnosis, snapshot: ClusterSnapshot) -> list[str]:
    from backends.procedures.plan import describe
    from backends.procedures.recovery import plan_recovery

    if diagnosis.fault is Fault.NONE:
        return []
    try:
        plan = plan_recovery(opened.loaded.inventory, snapshot, diagnosis)
    except ProcedureError as error:
        return [f"no plan: {error.advice or error.message}"]
    return [f"the plan, run by `tierdeck recover {diagnosis.node}`:", *describe(plan)[1 + len(plan.why) :]]


def _json(opened: Opened, diagnosis: Diagnosis, snapshot: ClusterSnapshot) -> dict[str, Any]:
    from backends.procedures.plan import to_json
    from backends.procedures.recovery import plan_recovery

    plan, refused = None, None
    try:
        plan = to_json(plan_recovery(opened.loaded.inventory, snapshot, diagnosis))
    except ProcedureError as error:
        refused = str(error)
    checks = [
        {"name": c.name, "state": c.state, "words": c.words, "kind": c.kind, "seconds": c.seconds}
        for c in diagnosis.checks
    ]
    return {
        "schema": "tierdeck.diagnosis/1",
        "node": diagnosis.node,
        "fault": diagnosis.fault.value,
        "sentence": diagnosis.sentence,
        "advice": diagnosis.advice,
        "parts": list(diagnosis.parts),
        "checks": checks,
        "plan": plan,
        "no_plan": refused,
    }
