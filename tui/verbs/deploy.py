"""`tierdeck deploy`: from a model to a served, routed endpoint, planned, shown, confirmed, followed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tui.arguments import USAGE
from tui.verbs.carrying import carry_out, would_ask
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from backends.cluster.deploying import Spec
    from backends.cluster.drafting import Question


def run(arguments: argparse.Namespace) -> int:
    """Plan it, and carry it out if that is confirmed."""
    from backends.cluster.deploying import load_spec

    if would_ask(arguments, "deploy"):
        return USAGE
    opened = open_cluster(arguments)
    path = Path(arguments.spec).expanduser() if arguments.spec else None
    if arguments.new or path is None:
        path = _written(opened, path)
    if path is None:
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


def _written(opened: Opened, path: Path | None) -> Path | None:
    """Write the file by a few questions, without a `path` where the console keeps them; None where nobody answers."""
    from backends.cluster.drafting import FOLDER, Answer, questions, write_draft
    from tui.verbs.following import can_ask

    if not can_ask():
        print("tierdeck: nobody can be asked here: write the file, then: tierdeck deploy FILE", file=sys.stderr)
        return None
    answers: dict[str, Answer] = {}
    for question in questions(opened.loaded.inventory):
        if not question.asked(answers):
            continue
        words = _answer(question)
        if words is None:
            print("\ntierdeck: nothing was written.", file=sys.stderr)
            return None
        answers[question.key] = words
    path = path or opened.loaded.path.parent / FOLDER / f"{answers['name']}.toml"
    write_draft(path, answers)
    print(f"Wrote {path}.", file=sys.stderr)
    return path


def _answer(question: Question) -> str | None:
    """Ask until that is one; None where the lines end."""
    while True:
        print(f"{question.text}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return None
        if not (wrong := question.mistake(line)):
            return line.strip()
        print(f"  {wrong}", file=sys.stderr)
