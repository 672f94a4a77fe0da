"""`tierdeck procedures`: those of this machine, listed, followed, cancelled or resumed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from datetime import UTC, datetime

from backends.paths import state_dir
from backends.procedures.commands import Procedures
from tui.verbs.following import follow
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
    if arguments.what == "cancel":
        when = await procedures.cancel(procedure)
        words = "stopping now" if when == "now" else "stops at the step's edge; once more stops it now"
        told = {"schema": "tierdeck.cancel/1", "procedure": procedure, "when": when}
        print(json.dumps(told) if as_json else words)
        return 0
    if arguments.what == "abandon":
        await asyncio.to_thread(procedures.abandon, procedure)
        return 0
    return await follow(procedures, _begun(procedures, procedure, arguments.what), as_json=as_json)


async def _begun(procedures: Procedures, procedure: str, what: str) -> str:
    if what == "resume":
        await procedures.resume(procedure)
    return procedure
