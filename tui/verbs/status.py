"""`tierdeck status`: one pass over everything, for people, cron and monitoring."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys


def run(arguments: argparse.Namespace) -> int:
    """Look once; exit 0 healthy, 1 degraded, 2 down, 3 unknown."""
    from backends.cluster.report import status_json, status_text
    from backends.cluster.words import EXIT_CODES
    from tui.verbs.opening import open_cluster

    opened = open_cluster(arguments)
    for remark in opened.loaded.remarks:
        print(f"tierdeck: {remark}", file=sys.stderr)
    from backends.world import survey

    snapshot = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir))
    inventory = opened.loaded.inventory
    if getattr(arguments, "json", False):
        print(json.dumps(status_json(inventory, snapshot), ensure_ascii=False))
    else:
        print("\n".join(status_text(inventory, snapshot)))
    return EXIT_CODES[snapshot.prognosis.state]
