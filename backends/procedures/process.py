"""The runner in a process of its own: it outlives the terminal that started it and ends with its procedure.

Started by `commands.Procedures` as `python -m backends.procedures.process`; the plan comes on standard input, one line
of JSON on standard output says whether it began, and then only the journal and the control socket speak.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from backends.clock import SystemClock
from backends.cluster.files import load
from backends.cluster.inventory import Inventory
from backends.errors import ProcedureError, TierdeckError
from backends.procedures import journal as journals
from backends.procedures.context import Context
from backends.procedures.desk import Desk, listening, socket_path
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.lock import HEARTBEAT, NodeLock, hold
from backends.procedures.plan import Plan, Step, from_json, to_json
from backends.procedures.runner import Past, StepKind, past_of, reason, run

CLOSE_LIMIT: Final = 10.0
"""Seconds that connections may take to close."""

Kinds = Mapping[str, Callable[[Step, Context], StepKind]]
Opens = Callable[[Inventory], AbstractAsyncContextManager[Context]]


@dataclass(frozen=True, slots=True)
class Told:
    """The runner's command line."""

    state: Path
    id: str
    cluster: Path
    resume: bool
    unattended: bool


def arguments(told: Told) -> list[str]:
    """`told` as a command line."""
    flags = [*(["--resume"] if told.resume else []), *(["--unattended"] if told.unattended else [])]
    return ["--state", str(told.state), "--id", told.id, "--cluster", str(told.cluster), *flags]


def _parse(argv: Sequence[str] | None) -> Told:
    parser = argparse.ArgumentParser(prog="backends.procedures.process")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--cluster", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--unattended", action="store_true")
    given = parser.parse_args(argv)
    return Told(given.state, given.id, given.cluster, given.resume, given.unattended)


def main(argv: Sequence[str] | None = None, *, kinds: Kinds = KINDS, opens: Opens | None = None) -> int:
    """Detach, carry the procedure out, and end."""
    told = _parse(argv)
    handed = sys.stdin.buffer.read()
    if os.fork():
        os._exit(0)  # the starter waits for this one only; the other belongs to nobody
    os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    starter = _Starter()
    try:
        asyncio.run(_serve(told, handed, kinds, opens or _real, starter))
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


def _real(inventory: Inventory) -> AbstractAsyncContextManager[Context]:
    from backends.procedures.opening import open_context

    return open_context(inventory)


class _Starter:
    """The one who started this process and waits for one line on its standard output."""

    def __init__(self) -> None:
        self._listens = True

    def accept(self, procedure: str) -> None:
        self._say({"id": procedure})

    def refuse(self, error: TierdeckError) -> None:
        if self._listens:
            with suppress(BrokenPipeError):  # nobody is left to be told
                self._say({"error": error.message, "advice": error.advice})

    def _say(self, line: Mapping[str, str]) -> None:
        self._listens = False
        os.write(1, json.dumps(line).encode() + b"\n")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(nowhere, fd)
        os.close(nowhere)


async def _serve(told: Told, handed: bytes, kinds: Kinds, opens: Opens, starter: _Starter) -> None:
    inventory = load(told.cluster).inventory
    plan = _earlier_plan(told) if told.resume else from_json(_json(handed))
    path = socket_path(told.state, told.id)
    owner = f"{_user()}@{socket.gethostname()}:{os.getpid()}"
    desk = Desk()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, desk.control.cancel)
    async with _closed_in_time() as outside:
        with ExitStack() as held:
            lock = held.enter_context(hold(told.state, plan.node, owner=owner, procedure=told.id, now=time.time()))
            opened = journals.reopen if told.resume else journals.create
            journal = _Recorder(held.enter_context(opened(told.state, told.id)))
            past = _past(journal.path) if told.resume else Past()
            async with listening(str(path), desk), _beating(lock):
                try:
                    journal.write(_opening(told, plan, owner, path))
                    starter.accept(told.id)
                    context = await outside.enter_async_context(opens(inventory))
                    await _carry_out(told, plan, kinds, context, desk, journal, past)
                except BaseException as error:
                    journal.fail(told.id, reason(error))
                    raise


async def _carry_out(
    told: Told, plan: Plan, kinds: Kinds, context: Context, desk: Desk, journal: _Recorder, past: Past
) -> None:
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


def _opening(told: Told, plan: Plan, owner: str, path: Path) -> StepEvent:
    detail: dict[str, JsonValue] = {"owner": owner, "socket": str(path)}
    if told.resume:
        return StepEvent(time.time(), told.id, "resumed", None, detail)
    return StepEvent(time.time(), told.id, "created", None, {**detail, "plan": to_json(plan)})


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        raise ProcedureError("The runner was handed no plan.") from None


def _earlier_plan(told: Told) -> Plan:
    events = journals.read_events(journals.journal_path(told.state, told.id))
    if not events or events[0].event != "created" or not isinstance(events[0].detail, Mapping):
        raise ProcedureError(f"The journal of {told.id} holds no plan.", "Plan it anew.")
    return from_json(events[0].detail.get("plan"))


def _past(path: Path) -> Past:
    events = journals.read_events(path)
    if events[-1].event == "finished" and events[-1].outcome == "done":
        raise ProcedureError(f"Procedure {path.stem} is done; there is nothing to resume.")
    return past_of(events)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this user id, as in a bare container
        return str(os.getuid())


@asynccontextmanager
async def _beating(lock: NodeLock) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            lock.beat()

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
