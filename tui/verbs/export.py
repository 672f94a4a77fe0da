"""`tierdeck export`: what tierdeck writes for other programs, printed; nothing is changed anywhere."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Final

from backends.errors import ProcedureError
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from backends.exports.boot import Rendered

SCHEMA: Final = "tierdeck.boot-unit/1"


def run(arguments: argparse.Namespace) -> int:
    """Print a node's boot starter; how it is installed goes to standard error."""
    opened = open_cluster(arguments)
    names = opened.loaded.inventory.node_named
    if arguments.node not in names:
        raise ProcedureError(f'There is no node "{arguments.node}".', f"Known: {', '.join(names) or 'none'}.")
    rendered = asyncio.run(_rendered(opened, arguments.node, arguments.program or ""))
    if getattr(arguments, "json", False):
        found = {
            "schema": SCHEMA,
            "node": arguments.node,
            "os": names[arguments.node].os,
            "file": rendered.file,
            "text": rendered.text,
            "install": list(rendered.install),
            "remark": rendered.remark,
        }
        print(json.dumps(found, ensure_ascii=False))
        return 0
    print(rendered.text, end="")
    print("\n".join(["Install it on that machine:", *(f"  {line}" for line in rendered.install)]), file=sys.stderr)
    print(rendered.remark, file=sys.stderr)
    return 0


async def _rendered(opened: Opened, node: str, program: str) -> Rendered:
    from backends.exports.boot import render
    from backends.procedures.boot import starter_for
    from backends.procedures.boot_machine import look
    from tui.verbs.boot import cluster_of, program_of, reached

    inventory = opened.loaded.inventory
    async with reached(opened) as outside:
        machine = await look(
            outside.shell(node),
            inventory.node_named[node],
            program=program or program_of(opened, node),
            cluster=cluster_of(opened, node),
        )
    return render(starter_for(inventory, node, machine))
