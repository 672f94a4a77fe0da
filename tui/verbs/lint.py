"""`tierdeck lint`: what is wrong with how containers were made, and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from tui.verbs.opening import Opened, known_node, open_cluster

if TYPE_CHECKING:
    from backends.linting import Linted

SCHEMA = "tierdeck.lint/1"


def run(arguments: argparse.Namespace) -> int:
    """Exit 0 where nothing is found, 1 where something is, 3 where a node could not be asked and nothing is."""
    opened = open_cluster(arguments)
    if arguments.node:
        known_node(opened, arguments.node)
    found = asyncio.run(_lint(opened, arguments.node))
    if getattr(arguments, "json", False):
        told = {"findings": [asdict(each) for each in found.remarks], "troubles": dict(found.troubles)}
        print(json.dumps({"schema": SCHEMA, "containers": found.containers, **told}, ensure_ascii=False))
    else:
        print("\n".join(_text(found)))
    for trouble in found.troubles.values():
        print(f"tierdeck: {trouble}", file=sys.stderr)
    return 1 if found.remarks else 3 if found.troubles else 0


async def _lint(opened: Opened, node: str | None) -> Linted:
    from backends.linting import lint_all
    from backends.reach.reaches import Reaches
    from backends.secrets import Secrets

    async with Reaches(opened.loaded.inventory, opened.here, Secrets()) as reaches:
        return await lint_all(opened.loaded.inventory, reaches, node)


def _text(found: Linted) -> list[str]:
    from backends.text import plain

    lines = []
    for each in found.remarks:
        lines += [plain(f"{each.node}/{each.container}: {each.message} [{each.rule}]", 400)]
        lines += [f"  {each.why}", f"  {each.cure}"]
        lines += [f"  fix: {each.fix}"] if each.fix else []
    count = len(found.remarks)
    what = f"{count} finding{'s' if count != 1 else ''}" if count else "nothing to remark"
    return [*lines, f"{found.containers} containers looked at: {what}"]
