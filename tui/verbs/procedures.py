"""`tierdeck procedures`: those of this machine, listed, followed, cancelled or resumed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime

from backends.paths import state_dir
from backends.procedures.commands import Procedures
from tui.arguments import USAGE
from tui.verbs.carrying import agreed
from tui.verbs.following import EXIT, can_ask, confirm, follow
from tui.verbs.opening import cluster_path


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; a bare `tierdeck procedures` lists."""
    procedures = Procedures(state_dir(os.environ), cluster_path(arguments))
    as_json = getattr(arguments, "json", False)
    if arguments.what in (None, "list"):
        return _list(procedures, as_json=as_json)
    return asyncio.run(_one(procedures, arguments, as_json=as_json))


def _list(procedures: Procedures, *, as_json: bool) -> int:
    known = procedures.list()
    if as_json:
        rows = [
            {
                "id": p.id,
                "kind": p.kind,
                "node": p.node,
                "title": p.title,
                "owner": p.owner,
                "state": p.state,
                "started": datetime.fromtimestamp(p.started, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            }
            for p in known
        ]
        print(json.dumps({"schema": "tierdeck.procedures/1", "procedures": rows}, ensure_ascii=False))
        return 0
    for p in known:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(p.started))
        print(f"{p.id}  {p.state:<9}  {started}  {p.node}  {p.title}  by {p.owner}")
    return 0


async def _one(procedures: Procedures, arguments: argparse.Namespace, *, as_json: bool) -> int:
    procedure = await asyncio.to_thread(procedures.find, arguments.id)
    match arguments.what:
        case "cancel":
            when = await procedures.cancel(procedure)
            words = "stopping now" if when == "now" else "stops at the step's edge; once more stops it now"
            told = {"schema": "tierdeck.cancel/1", "procedure": procedure, "when": when}
            print(json.dumps(told) if as_json else words)
        case "pause":
            await procedures.pause(procedure)
        case "answer":
            await procedures.answer(procedure, arguments.choice)
        case "abandon":
            await asyncio.to_thread(procedures.abandon, procedure)
        case "resume":
            return await _resume(procedures, procedure, arguments, as_json=as_json)
        case "rollback":
            return await _roll_back(procedures, procedure, arguments, as_json=as_json)
        case _:
            return await follow(procedures, _named(procedure), as_json=as_json)
    return 0


async def _resume(procedures: Procedures, procedure: str, arguments: argparse.Namespace, *, as_json: bool) -> int:
    plan = await asyncio.to_thread(procedures.plan, procedure)
    if (code := agreed(plan, arguments, as_json=as_json)) is not None:
        return code
    await procedures.resume(procedure, attended=not arguments.yes, take_over=arguments.take_over)
    return await follow(procedures, _named(procedure), as_json=as_json)


async def _roll_back(procedures: Procedures, procedure: str, arguments: argparse.Namespace, *, as_json: bool) -> int:
    plan = await asyncio.to_thread(procedures.plan, procedure)
    print(f"{plan.title}: what it made is removed, what it changed is put back as it was.", file=sys.stderr)
    if not arguments.yes and (as_json or not can_ask()):
        print("tierdeck: nobody can be asked here: say --yes.", file=sys.stderr)
        return USAGE
    if not arguments.yes and not confirm("Take it back?"):
        return 1
    await procedures.roll_back(procedure, take_over=arguments.take_over)
    code = await follow(procedures, _named(procedure), as_json=as_json)
    return 0 if code == EXIT["cancelled"] else code


async def _named(procedure: str) -> str:
    return procedure
