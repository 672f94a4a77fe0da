"""`tierdeck deploy`: from a model to a served, routed endpoint, planned, shown, confirmed, followed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tui.cli import USAGE
from tui.verbs.carrying import carry_out, would_ask
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from backends.cluster.deploying import Spec


def run(arguments: argparse.Namespace) -> int:
    """Plan it, and carry it out if that is confirmed."""
    from backends.cluster.deploying import load_spec

    if would_ask(arguments, "deploy"):
        return USAGE
    opened = open_cluster(arguments)
    path = Path(arguments.spec).expanduser()
    if arguments.new and not _written(opened, path):
        return USAGE
    spec = load_spec(path)
    if arguments.gateway:
        spec = spec.model_copy(update={"gateway": True})
    return asyncio.run(_run(opened, arguments, spec))


async def _run(opened: Opened, arguments: argparse.Namespace, spec: Spec) -> int:
    from backends.world import World

    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        plan = await world.plan_deploy(spec, force=arguments.force, roll_back=arguments.rollback)
    return await carry_out(plan, opened, arguments)


def _written(opened: Opened, path: Path) -> bool:
    """Write the file by a few questions; False where nobody can be asked, or the answers end."""
    from backends.cluster.drafting import questions, write_draft
    from tui.verbs.following import can_ask

    if not can_ask():
        print("tierdeck: nobody can be asked here: write the file, then leave out --new.", file=sys.stderr)
        return False
    answers: dict[str, str] = {}
    for question in questions(opened.loaded.inventory):
        while not answers.get(question.key, "").strip():
            print(f"{question.text}: ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:
                print("\ntierdeck: nothing was written.", file=sys.stderr)
                return False
            answers[question.key] = line.strip()
            if question.optional:
                break
    write_draft(path, answers)
    print(f"Wrote {path}.", file=sys.stderr)
    return True
