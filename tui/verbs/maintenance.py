"""`tierdeck maintenance`: what is left out of verdicts and alerts for a while, because a person said so."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime

from backends.errors import InventoryError
from backends.maintenance import Maintenance, lasting, wanted
from tui.verbs.opening import open_cluster


def run(arguments: argparse.Namespace) -> int:
    """Begin it, end it, or list what there is."""
    opened = open_cluster(arguments)
    kept, now = Maintenance(opened.state_dir), time.time()
    if arguments.name is not None:
        name = wanted(opened.loaded.inventory, arguments.name)
        if arguments.end:
            kept.end(name, now)
        elif arguments.lasting is not None:
            kept.begin(name, now + lasting(arguments.lasting), now)
        else:
            raise InventoryError("Say how long, or that it is over.", "tierdeck maintenance NAME --for 2h | --end")
    elif arguments.end or arguments.lasting is not None:
        raise InventoryError("Say of which node or endpoint.", "tierdeck maintenance NAME --for 2h | --end")
    rows = {name: until for name, until in sorted(kept.read().items()) if until > now}
    if getattr(arguments, "json", False):
        print(json.dumps([{"name": name, "until": _iso(until)} for name, until in rows.items()], ensure_ascii=False))
        return 0
    for name, until in rows.items():
        print(f"{name}  until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(until))}")
    if not rows:
        print("nothing is under maintenance")
    return 0


def _iso(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
