"""The runner in a process of its own: it outlives the terminal that started it and ends with its procedure.

Started by `commands.Procedures` as `python -m backends.procedures.process`; the plan and the environment come on
standard input, one line of JSON on standard output says whether it began, and then only the journal and the control
socket speak.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import JsonValue, SecretStr

from backends.clock import SystemClock
from backends.cluster.files import load
from backends.cluster.inventory import Inventory
from backends.errors import ProcedureError, ReachError, StaleLease, TierdeckError
from backends.procedures import journal as journals
from backends.procedures import leasing
from backends.procedures.context import Context
from backends.procedures.desk import Desk, listening, socket_path
from backends.procedures.events import StepEvent, plan_of
from backends.procedures.fragment import coming_files
from backends.procedures.handing import taken
from backends.procedures.kinds import KINDS
from backends.procedures.learned import Learned
from backends.procedures.leasing import Lease
from backends.procedures.lock import HEARTBEAT, NodeLock, hold
from backends.procedures.plan import Plan, Step, to_json
from backends.procedures.runner import Past, StepKind, past_of, reason, run

CLOSE_LIMIT: Final = 10.0
"""Seconds that connections may take to close."""

Kinds = Mapping[str, Callable[[Step, Context], StepKind]]
Opens = Callable[[Inventory, Mapping[str, SecretStr]], AbstractAsyncContextManager[Context]]
"""Opens the outside; the secrets are the variables that `env:` references name."""


@dataclass(frozen=True, slots=True)
class Told:
    """The runner's command line."""

    state: Path
    id: str
    cluster: Path
    resume: bool
    unattended: bool
    take_over: bool = False
    back: bool = False


def arguments(told: Told) -> list[str]:
    """`told` as a command line."""
    flags = {"--resume": told.resume, "--unattended": told.unattended, "--take-over": told.take_over}
    flags["--back"] = told.back
    named = [flag for flag, said in flags.items() if said]
    return ["--state", str(told.state), "--id", told.id, "--cluster", str(told.cluster), *named]


def _parse(argv: Sequence[str] | None) -> Told:
    parser = argparse.ArgumentParser(prog="backends.procedures.process")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--cluster", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--unattended", action="store_true")
    parser.add_argument("--take-over", action="store_true")
    parser.add_argument("--back", action="store_true")
    given = parser.parse_args(argv)
    return Told(given.state, given.id, given.cluster, given.resume, given.unattended, given.take_over, given.back)


def main(argv: Sequence[str] | None = None, *, kinds: Kinds = KINDS, opens: Opens | None = None) -> int:
    """Detach, carry the procedure out, and end."""
    told = _parse(argv)
    raw = sys.stdin.buffer.read()
    if os.fork():
        os._exit(0)  # the starter waits for this one only; the other belongs to nobody
    os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    starter = _Starter()
    try:
        asyncio.run(_serve(told, raw, kinds, opens or partial(_real, told.state), starter))
        return 0
    except TierdeckError as error:
        starter.refuse(error)
        return 1
    except Exception as error:
        traceback.print_exc()
        starter.refuse(ProcedureError(f"The runner failed: {reason(error)}."))
        return 1
    finally:
        remove_if_empty(journals.journal_path(told.state, told.id).with_suffix(".log"))


def remove_if_empty(path: Path) -> None:
    """Remove a log in which nothing stands; the starter and the runner both do."""
    with suppress(FileNotFoundError):
        if not path.stat().st_size:
            path.unlink()


def _real(state: Path, inventory: Inventory, given: Mapping[str, SecretStr]) -> AbstractAsyncContextManager[Context]:
    from backends.procedures.opening import open_context

    return open_context(inventory, state, given)


class _Starter:
    """The one who started this process and waits for one line on its standard output."""

    def __init__(self) -> None:
        self._listens = True

    def accept(self, procedure: str) -> None:
        self._say({"id": procedure})

    def refuse(self, error: TierdeckError) -> None:
        if self._listens:
            with suppress(BrokenPipeError):  # nobody is left to be told
                stale = isinstance(error, StaleLease)
                self._say({"error": error.message, "advice": error.advice, "stale": stale})

    def _say(self, line: Mapping[str, str | bool]) -> None:
        self._listens = False
        os.write(1, json.dumps(line).encode() + b"\n")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(nowhere, fd)
        os.close(nowhere)


async def _serve(told: Told, raw: bytes, kinds: Kinds, opens: Opens, starter: _Starter) -> None:
    """Take the journal, the node here and the node itself, in this order, and give them back in the other."""
    handed = taken(raw)
    plan = handed.plan or plan_of(told.id, _journal(told))
    inventory = load(told.cluster, with_files=coming_files(plan)).inventory
    given = handed.settle(inventory)
    path = socket_path(told.state, told.id)
    owner = f"{_user()}@{socket.gethostname()}:{os.getpid()}"
    desk = Desk()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, desk.control.cancel)
    async with _closed_in_time() as outside:
        with ExitStack() as held:
            opened = journals.reopen if told.resume else journals.create
            journal = _Recorder(held.enter_context(opened(told.state, told.id)))
            past = _past(journal.path, back=told.back) if told.resume else Past()
            now = time.time()
            locks = [
                held.enter_context(hold(told.state, node, owner=owner, procedure=told.id, now=now))
                for node in plan.nodes
            ]
            context = await outside.enter_async_context(opens(inventory, given))
            async with listening(str(path), desk), _beating(locks), _leased(told, plan, owner, context) as leases:
                try:
                    journal.write(_opening(told, plan, owner, path, leases))
                    starter.accept(told.id)
                    context = _remembering(told, plan, context, leases, journal.path)
                    await _carry_out(told, plan, kinds, context, desk, journal, past)
                except BaseException as error:
                    journal.fail(told.id, reason(error))
                    raise


@asynccontextmanager
async def _leased(told: Told, plan: Plan, owner: str, context: Context) -> AsyncIterator[list[Lease]]:
    """The leases on the nodes themselves; none where the outside has no such thing, or what is recovered has none."""
    died = partial(leasing.has_died, told.state, ours=told.id)
    leases = []
    async with AsyncExitStack() as stack:
        for node in plan.nodes:
            if not (where := context.places(node)):
                continue
            holder, elsewhere = leasing.holder_for(node, owner, told.id), context.away(node)
            taking = leasing.leasing(where, elsewhere, holder, died=died, take_over=told.take_over)
            try:
                leases.append(await stack.enter_async_context(taking))
            except ReachError:
                if plan.kind != "recovery":
                    raise
        yield leases


def _remembering(told: Told, plan: Plan, context: Context, leases: Sequence[Lease], journal: Path) -> Context:
    """The outside, with what this procedure and those before it know."""
    context = replace(context, targets=plan.targets, learned=Learned(told.state))
    if told.resume:
        context.outages.recall(journals.read_events(journal))

    async def confirm() -> None:
        for lease in leases:
            await lease.confirm()

    return replace(context, confirm=confirm) if leases else context


async def _carry_out(
    told: Told, plan: Plan, kinds: Kinds, context: Context, desk: Desk, journal: _Recorder, past: Past
) -> None:
    async def guard() -> None:
        with suppress(ReachError):  # what is out of reach now is asked again right before it is changed
            await context.confirm()

    events = run(
        plan,
        kinds,
        context,
        procedure=told.id,
        journal=journal,
        ask=None if told.unattended else desk.ask,
        control=desk.control,
        clock=SystemClock(),
        past=past,
        guard=guard,
        back=told.back,
    )
    async with aclosing(events):
        async for _ in events:
            pass


@asynccontextmanager
async def _closed_in_time() -> AsyncIterator[AsyncExitStack]:
    """A stack that is closed last, when the node is free again already, and does not keep the process for long."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        async with asyncio.timeout(CLOSE_LIMIT):
            await stack.aclose()


class _Recorder:
    """A journal that knows whether its last word was said."""

    def __init__(self, journal: journals.Journal) -> None:
        self._journal = journal
        self._last = "finished"
        self.path = journal.path

    def write(self, event: StepEvent) -> None:
        self._journal.write(event)
        self._last = event.event

    def fail(self, procedure: str, why: str) -> None:
        """Say the last word, unless it was said, or nothing was."""
        if self._last != "finished":
            self.write(StepEvent(time.time(), procedure, "finished", None, {"text": why}, "failed"))


def _opening(told: Told, plan: Plan, owner: str, path: Path, leases: Sequence[Lease]) -> StepEvent:
    detail: dict[str, JsonValue] = {"owner": owner, "socket": str(path)}
    detail |= {"lease": ", ".join(lease.place.where for lease in leases)} if leases else {}
    if told.resume:
        return StepEvent(time.time(), told.id, "resumed", None, detail)
    return StepEvent(time.time(), told.id, "created", None, {**detail, "plan": to_json(plan)})


def _journal(told: Told) -> list[StepEvent]:
    return journals.read_events(journals.journal_path(told.state, told.id))


def _past(path: Path, *, back: bool) -> Past:
    events = journals.read_events(path)
    if not back and events[-1].event == "finished" and events[-1].outcome == "done":
        raise ProcedureError(f"Procedure {path.stem} is done; there is nothing to resume.")
    return past_of(events)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this user id, as in a bare container
        return str(os.getuid())


@asynccontextmanager
async def _beating(locks: Sequence[NodeLock]) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            for lock in locks:
                lock.beat()

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
