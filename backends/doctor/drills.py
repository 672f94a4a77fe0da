"""Whether the ways to recover a node were proven lately: what was never tried fails on the day it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backends.checks import span
from backends.cluster.inventory import Inventory
from backends.cluster.tables import Node
from backends.doctor.finding import Finding, ok, warn
from backends.drill import TITLES, offered

OLD: Final = 30 * 86400.0
"""Seconds after which a proof is old: passwords expire, and machines are installed anew."""


def drills(
    inventory: Inventory, us: str | None, proven: Mapping[str, Mapping[str, float]], now: float
) -> list[Finding]:
    """For each node that can be woken, or is recovered unattended: when its rungs were last proven."""
    nodes = [n for n in inventory.nodes if n.wake is not None or n.recover != "manual" or n.name in proven]
    return [_drill(node, inventory, us, proven.get(node.name, {}), now) for node in nodes]


def _drill(node: Node, inventory: Inventory, us: str | None, proven: Mapping[str, float], now: float) -> Finding:
    rungs = offered(node, inventory, here=us == node.name)
    told = [
        f"{TITLES[r]} {f'last proven {span(now - proven[r])} ago' if r in proven else 'never proven'}" for r in rungs
    ]
    words = ", ".join(told) or "there is nothing to prove"
    if all(r in proven and now - proven[r] <= OLD for r in rungs):
        return ok(f"{node.name}: drill", words)
    return warn(f"{node.name}: drill", words, f"Prove it while nothing is broken: tierdeck drill {node.name}")
