"""`tierdeck drill`: proves, without climbing, that each rung of a node's recovery ladder could be climbed."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends.cluster.reading import Instant
from backends.cluster.report import iso
from tui.verbs.opening import Opened, known_node, open_cluster

if TYPE_CHECKING:
    from backends.drill import Proof

UNREACHABLE = 3
"""The exit code where the node does not answer SSH."""


def run(arguments: argparse.Namespace) -> int:
    """Prove, remember and tell; exit 0 where all is proven, 1 where something is not, 3 where SSH does not answer."""
    from backends.proven import Proven

    opened = open_cluster(arguments)
    known_node(opened, arguments.node)
    proofs = asyncio.run(_drilled(opened, arguments.node))
    kept, now = Proven(opened.state_dir), time.time()
    if proven := [proof.rung for proof in proofs if proof.proven]:
        kept.note(arguments.node, proven, now)
    before = kept.read().get(arguments.node, {})
    if getattr(arguments, "json", False):
        print(json.dumps(_json(arguments.node, proofs, before), ensure_ascii=False))
    else:
        print("\n".join(lines(arguments.node, proofs, before, now)))
    if any(proof.unreachable for proof in proofs):
        return UNREACHABLE
    return 0 if proofs and all(proof.proven for proof in proofs) else 1


async def _drilled(opened: Opened, node: str) -> tuple[Proof, ...]:
    from backends.world import World

    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        return await world.drill(node)


def lines(node: str, proofs: Sequence[Proof], before: Mapping[str, float], now: float) -> list[str]:
    """A line for each rung, and what to do beneath those that could not be climbed."""
    from backends.checks import span
    from backends.drill import TITLES

    if not proofs:
        return [f'{node}: cluster.toml offers no way to recover it. Give it ssh = {{ user = "..." }}, or wake.']
    found = [f"{node}: {sum(proof.proven for proof in proofs)} of {len(proofs)} proven"]
    for proof in proofs:
        state = "proven" if proof.proven else "cannot"
        found.append(f"  {state}  {TITLES[proof.rung]:<10}  {proof.words}  ({proof.seconds:.1f} s)")
        if not proof.proven:
            last = f"Last proven {span(now - before[proof.rung])} ago." if proof.rung in before else ""
            found += [f"          {'':<10}  {told}" for told in (proof.advice, last) if told]
    return found


def _json(node: str, proofs: Sequence[Proof], before: Mapping[str, float]) -> dict[str, Any]:
    rungs = [
        {
            "rung": proof.rung,
            "proven": proof.proven,
            "words": proof.words,
            "advice": proof.advice,
            "seconds": proof.seconds,
            "last_proven": iso(Instant(before[proof.rung], 0.0)) if proof.rung in before else None,
        }
        for proof in proofs
    ]
    return {"schema": "tierdeck.drill/1", "node": node, "rungs": rungs}
