"""`tierdeck deploy`: from a model to a served, routed endpoint, planned, shown, confirmed, followed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.errors import ProcedureError
from tui.cli import USAGE
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from backends.cluster.drafting import Question

RELEASE_TRIES: Final = 100
"""How often, ten times a second, it is asked whether a node is free again."""


def run(arguments: argparse.Namespace) -> int:
    """Plan it, and carry it out if that is confirmed."""
    from backends.cluster.deploying import load_spec

    if getattr(arguments, "json", False) and not (arguments.yes or arguments.dry_run):
        print("tierdeck: deploy --json needs --yes or --dry-run: it never asks.", file=sys.stderr)
        return USAGE
    opened = open_cluster(arguments)
    path = Path(arguments.spec).expanduser() if arguments.spec else None
    if arguments.new or path is None:
        path = _written(opened, path)
    if path is None:
        return USAGE
    load_spec(path)
    arguments.file = None  # of the push that may follow: what is rendered
    code, coming = asyncio.run(_run(opened, arguments, path))
    if code or not arguments.gateway:
        return code
    from backends.cluster.files import load
    from tui.verbs.gateway import push

    return push(replace(opened, loaded=load(opened.loaded.path, with_files=coming)), arguments)


async def _run(opened: Opened, arguments: argparse.Namespace, path: Path) -> tuple[int, dict[str, str]]:
    """The exit code, and the files of cluster.d as they are then, or would be."""
    from backends.cluster.deploying import load_spec
    from backends.procedures.fragment import coming_files
    from backends.world import World
    from tui.verbs.carrying import carry_out

    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        plan = await world.plan_deploy(load_spec(path), force=arguments.force, roll_back=arguments.rollback)
    code = await carry_out(plan, opened, arguments)
    if arguments.gateway and not (code or arguments.dry_run):
        await _free(opened, plan.node)
    return code, coming_files(plan)


async def _free(opened: Opened, node: str) -> None:
    """Wait until the procedure that is done has let go of its node, which another one may need."""
    from backends.procedures.lock import refuse_if_held

    for _ in range(RELEASE_TRIES):
        try:
            refuse_if_held(opened.state_dir, node, time.time())
            return
        except ProcedureError:
            await asyncio.sleep(0.1)


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
