"""`tierdeck models`: every model of the cluster, as one look finds them."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys


def run(arguments: argparse.Namespace) -> int:
    """Look once and print; what could not be asked has no models, and is said on standard error."""
    from backends.cluster.registry import registry, registry_json, registry_text
    from backends.text import plain
    from tui.verbs.opening import open_cluster

    opened = open_cluster(arguments)
    from backends.world import survey

    snapshot = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir))
    inventory = opened.loaded.inventory
    for endpoint in inventory.endpoints:
        state = snapshot.endpoints[endpoint.name]
        if not state.serving and not state.models:
            print(plain(f"tierdeck: {endpoint.name}: {state.evidence}"), file=sys.stderr)
    if getattr(arguments, "json", False):
        print(json.dumps(registry_json(inventory, snapshot), ensure_ascii=False))
    else:
        print("\n".join(registry_text(registry(inventory, snapshot))))
    return 0
