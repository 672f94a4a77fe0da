"""What `tierdeck route` does where only an on-demand model could answer that is off: say so, ask, start it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from backends.errors import ChatError, ProcedureError
from backends.procedures.plan import describe
from tui.verbs.following import EXIT, can_ask, confirm, follow

if TYPE_CHECKING:
    from backends.cluster.snapshot import ClusterSnapshot
    from backends.procedures.demand import ColdStart
    from backends.world import World


def cold_start(world: World, snapshot: ClusterSnapshot, endpoint: str) -> ColdStart:
    """What its start would take; ChatError, with the figures, where it cannot be."""
    try:
        return world.cold_start(endpoint, snapshot)
    except ProcedureError as error:
        raise ChatError(error.message, error.advice, sent=False) from error


async def warmed(world: World, cold: ColdStart, arguments: argparse.Namespace) -> ClusterSnapshot:
    """Start it by its procedure if a person says so; the cluster once it is ready. ChatError where it is not.

    It is narrated on standard error, standard output being the answer's. KeyboardInterrupt where it was cancelled.
    """
    _confirm(cold, arguments)
    begins = world.procedures.start(cold.plan, attended=not arguments.yes)
    try:
        code = await follow(world.procedures, begins, as_json=False, to=sys.stderr)
    except ProcedureError as error:
        raise ChatError(error.message, error.advice, sent=False) from error
    if code == EXIT["cancelled"]:
        raise KeyboardInterrupt
    if code:
        raise ChatError(f"{cold.endpoint} did not start; nothing was sent.", "See: tierdeck procedures", sent=False)
    return await world.look()


def _confirm(cold: ColdStart, arguments: argparse.Namespace) -> None:
    """ChatError where neither --yes nor a person at the terminal says that it may be started."""
    if arguments.yes:
        return
    asks = can_ask() and not getattr(arguments, "json", False)
    if asks:
        print("\n".join(describe(cold.plan)), file=sys.stderr)
    if not asks or not confirm("Start it?"):
        advice = f"Say --yes, or start it yourself: tierdeck up {cold.endpoint}"
        raise ChatError(f"{cold.endpoint} was not started, and nothing was sent.", advice, sent=False)
