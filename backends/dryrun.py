"""A dry run of llama.cpp on a node that has it: nothing is loaded, but the GPU's driver is initialised for a moment."""

from __future__ import annotations

from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.errors import CommandError, ReachError
from backends.memory.dryrun import PROGRAM, answer, command
from backends.memory.settings import Settings
from backends.memory.spoken import Buffers
from backends.reach.runtime import Shell
from backends.reach.streams import first_words

LIMIT: Final = 60.0
"""Seconds that it may take; reading the vocabulary of a large model is the most of it."""


async def dry_run(node: str, shell: Shell, file: str, settings: Settings) -> tuple[Buffers, ...]:
    """What each device of the node would hold of a model that lies there; a ReachError where that cannot be told."""
    if settings.unified:
        raise ReachError(f"{PROGRAM} knows no unified cache.", "Leave --unified out, or the dry run.")
    try:
        done = await shell.run(command(_path(node, file), settings), timeout=LIMIT)
    except TimeoutError:
        raise ReachError(f"{PROGRAM} on {node} did not end within {LIMIT:g} s.", "Does the driver hang?") from None
    except CommandError as error:
        if error.status != 127:
            raise
        raise _missing(node) from None
    if done.status == 127:
        raise _missing(node)
    if found := answer(done.stdout):
        return found
    said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    words = first_words(said[-1] if said else done.stderr or done.stdout) or f"status {done.status}"
    raise ReachError(f"{PROGRAM} on {node}: {words}", "It must be a llama.cpp of April 2026 or later (--fit-print).")


def starting(inventory: Inventory, snapshot: ClusterSnapshot, node: str) -> str:
    """What starts on a node, which a second process on its GPU could deadlock; "" where nothing does."""
    loading = (
        e.name for e in inventory.endpoints if e.node == node and snapshot.endpoints[e.name].cause is Cause.LOADING
    )
    running = (each.title for each in snapshot.procedures if each.open and each.node == node)
    return next(loading, "") or next(running, "")


def _path(node: str, file: str) -> str:
    there = file.removeprefix(f"ssh:{node}:")
    if not there.startswith("/"):
        raise ReachError(
            f"A dry run on {node} needs a model's file there, and {file} is none.", f"Say it as ssh:{node}:/PATH."
        )
    return there


def _missing(node: str) -> ReachError:
    return ReachError(
        f"{PROGRAM} is not on the PATH of {node}.", "It comes with llama.cpp; or do without --dry-run-on."
    )
