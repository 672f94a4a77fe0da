"""From a plan to its outcome on the command line: printed, confirmed, started in a process of its own, followed."""

from __future__ import annotations

import argparse
import json
import sys

from backends.procedures.commands import Procedures
from backends.procedures.plan import Danger, Plan, describe, to_json
from tui.arguments import USAGE
from tui.verbs.following import can_ask, confirm, follow
from tui.verbs.opening import Opened


async def carry_out(plan: Plan, opened: Opened, arguments: argparse.Namespace) -> int:
    """Print `plan` and, unless that is all that was asked, have it confirmed, start it and follow it."""
    as_json = getattr(arguments, "json", False)
    if arguments.dry_run:
        print(json.dumps(to_json(plan), ensure_ascii=False) if as_json else "\n".join(describe(plan)))
        return 0
    if (code := agreed(plan, arguments, as_json=as_json)) is not None:
        return code
    procedures = Procedures(opened.state_dir, opened.loaded.path)
    take_over = getattr(arguments, "take_over", False)

    async def begin() -> str:
        procedure = await procedures.start(plan, attended=not arguments.yes, take_over=take_over)
        print(f"tierdeck: procedure {procedure}; attach with: tierdeck procedures attach {procedure}", file=sys.stderr)
        return procedure

    return await follow(procedures, begin(), as_json=as_json)


def would_ask(arguments: argparse.Namespace, verb: str) -> bool:
    """Whether --json was said without what makes a question unnecessary; then that is told."""
    asks = getattr(arguments, "json", False) and not (arguments.yes or arguments.dry_run)
    if asks:
        print(f"tierdeck: {verb} --json needs --yes or --dry-run: it never asks.", file=sys.stderr)
    return asks


def agreed(plan: Plan, arguments: argparse.Namespace, *, as_json: bool) -> int | None:
    """Have `plan` confirmed by --yes (and --interrupt where it interrupts) or by a person; else the exit code."""
    print("\n".join(describe(plan)), file=sys.stderr)
    asks = not as_json and can_ask()
    if plan.danger is Danger.INTERRUPTS and not getattr(arguments, "interrupt", False) and (arguments.yes or not asks):
        print("tierdeck: this interrupts running work: say --interrupt too.", file=sys.stderr)
        return USAGE
    if arguments.yes:
        return None
    if not asks:
        print("tierdeck: nobody can be asked here: say --yes or --dry-run.", file=sys.stderr)
        return USAGE
    return None if confirm("Run it?") else 1
