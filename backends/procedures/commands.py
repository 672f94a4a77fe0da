"""What people and scripts do with procedures: start, follow, answer, cancel, resume, abandon, list."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from backends.cluster.reading import ProcedureState
from backends.errors import ProcedureError, StaleLease
from backends.procedures import journal as journals
from backends.procedures.events import StepEvent, plan_of
from backends.procedures.handing import born_with, hand
from backends.procedures.lock import private_folder, refuse_if_held
from backends.procedures.plan import Plan
from backends.procedures.process import Told, arguments, remove_if_empty

RUNNER: Final = (sys.executable, "-P", "-m", "backends.procedures.process")
"""How a runner is started; -P keeps a `backends` folder of the current directory out of it."""

LAUNCH_LIMIT: Final = 60.0
"""Seconds a runner may take to begin: to start, to reach the node, and to take its lease."""

CONTROL_LIMIT: Final = 5.0
"""Seconds a running procedure may take to take a command."""


class Procedures:
    """All procedures of one state directory; `inventory` is the cluster.toml that runners read."""

    def __init__(self, state_dir: Path, inventory: Path, *, runner: Sequence[str] = RUNNER) -> None:
        self.state_dir = state_dir
        self._inventory = inventory
        self._runner = tuple(runner)
        self._shelf = journals.Shelf(state_dir)

    def list(self) -> tuple[ProcedureState, ...]:
        """Every procedure, the newest first; reads only what is new, but from the disk: ask it in a thread."""
        return self._shelf.read()

    def state(self, procedure: str) -> ProcedureState:
        """One of them."""
        return journals.read_state(journals.journal_path(self.state_dir, procedure))

    def plan(self, procedure: str) -> Plan:
        """What one of them was to do."""
        return plan_of(procedure, journals.read_events(journals.journal_path(self.state_dir, procedure)))

    def find(self, word: str) -> str:
        """The procedure whose name begins or ends with `word`, if it is the only one."""
        names = [state.id for state in self.list() if state.id.startswith(word) or state.id.endswith(word)]
        if len(names) != 1 or not word:
            several = f"Several procedures match: {', '.join(names[:5])}." if names else f'No procedure "{word[:80]}".'
            raise ProcedureError(several, "List them: tierdeck procedures")
        return names[0]

    async def start(self, plan: Plan, *, attended: bool = True, take_over: bool = False) -> str:
        """Start `plan` in a process of its own and return its name; unattended, a failed step halts it.

        ProcedureError where another procedure holds the node, or the runner does not begin; with `take_over`, a lease
        on the node that its owner no longer renews gives way.
        """
        for node in plan.nodes:
            refuse_if_held(self.state_dir, node, time.time())
        procedure = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        await asyncio.to_thread(journals.prune, self.state_dir)
        await self._launch(procedure, plan, resume=False, attended=attended, take_over=take_over)
        return procedure

    async def resume(self, procedure: str, *, attended: bool = True, take_over: bool = False) -> None:
        """Go on with a procedure that was halted, cancelled, failed or lost; every step is checked anew."""
        await self._launch(procedure, None, resume=True, attended=attended, take_over=take_over)

    async def roll_back(self, procedure: str, *, take_over: bool = False) -> None:
        """Take back all that one did, if its plan can be; it must not run any more."""
        if not self.plan(procedure).reversible:
            raise ProcedureError(f"Procedure {procedure} cannot be taken back as a whole.", "Only deployments can.")
        await self._launch(procedure, None, resume=True, attended=False, take_over=take_over, back=True)

    def attach(self, procedure: str) -> AsyncGenerator[StepEvent, None]:
        """Its events from the first on, as they come, the last being `finished` (or `lost`)."""
        return journals.follow(journals.journal_path(self.state_dir, procedure))

    async def cancel(self, procedure: str) -> str:
        """Ask it to stop: at the "edge" of its step, and asked again "now"; which of them it is, is returned."""
        return str((await self._control(procedure, {"command": "cancel"})).get("when", "edge"))

    async def pause(self, procedure: str) -> None:
        """Ask it to wait at the edge of its step until it is told to continue."""
        await self._control(procedure, {"command": "pause"})

    async def answer(self, procedure: str, choice: str) -> None:
        """Answer its question: retry, skip, hold or abort; continue where it was paused."""
        await self._control(procedure, {"command": "answer", "choice": choice})

    def abandon(self, procedure: str) -> None:
        """Close the journal of a procedure that no longer runs; nothing on the node is touched."""
        with journals.reopen(self.state_dir, procedure) as journal:
            if journals.read_events(journal.path)[-1].outcome == "done":
                raise ProcedureError(f"Procedure {procedure} is done; there is nothing to abandon.")
            detail = {"text": "abandoned"}
            journal.write(StepEvent(time.time(), procedure, "finished", None, dict(detail), "cancelled"))

    async def _launch(
        self, procedure: str, plan: Plan | None, *, resume: bool, attended: bool, take_over: bool, back: bool = False
    ) -> None:
        path = journals.journal_path(self.state_dir, procedure)
        private_folder(path.parent)
        log = path.with_suffix(".log")
        state, inventory = self.state_dir.absolute(), self._inventory.absolute()
        told = Told(state, procedure, inventory, resume, not attended, take_over, back)
        command = [*self._runner, *arguments(told)]
        try:
            said = await asyncio.to_thread(_begin, command, plan, log)
        except subprocess.TimeoutExpired:
            raise ProcedureError(f"The runner did not begin within {LAUNCH_LIMIT:.0f} s; nothing was done.") from None
        except OSError as error:
            raise ProcedureError(f"The runner cannot be started: {error.strerror or error}.") from error
        reply = _reply(said)
        if reply.get("id") == procedure:
            return
        if "error" in reply:
            kind = StaleLease if reply.get("stale") else ProcedureError
            raise kind(str(reply["error"]), str(reply.get("advice", "")))
        raise ProcedureError("The runner ended before it began.", f"What it said stands in {log}.")

    async def _control(self, procedure: str, command: Mapping[str, str]) -> Mapping[str, Any]:
        """Say `command` to a running procedure; its reply. ProcedureError where it refuses or runs no more."""
        path = await asyncio.to_thread(self._socket, procedure)
        ended = ProcedureError(f"Procedure {procedure} does not run any more.", "See: tierdeck procedures")
        try:
            async with asyncio.timeout(CONTROL_LIMIT):
                reader, writer = await asyncio.open_unix_connection(path, limit=4096)
                try:
                    writer.write(json.dumps(command).encode() + b"\n")
                    await writer.drain()
                    reply = _reply(await reader.readline())
                finally:
                    writer.close()
        except TimeoutError:
            raise ProcedureError(f"Procedure {procedure} does not take commands.", "Is its machine busy?") from None
        except (OSError, ValueError):
            raise ended from None
        if not reply:
            raise ended
        if "error" in reply:
            raise ProcedureError(f"Procedure {procedure}: {reply['error']}")
        return reply

    def _socket(self, procedure: str) -> str:
        events = journals.read_events(journals.journal_path(self.state_dir, procedure))
        for event in reversed(events):
            if event.event in ("created", "resumed") and isinstance(event.detail, Mapping):
                return str(event.detail.get("socket", ""))
        raise ProcedureError(f"The journal of {procedure} names no runner.")


def _begin(command: Sequence[str], plan: Plan | None, log: Path) -> bytes:
    """Start a runner and wait for its one line; it goes on by itself, in a session of its own."""
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as errors:
        begun = subprocess.run(
            command,
            input=hand(plan, os.environ),
            env=born_with(os.environ),
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            timeout=LAUNCH_LIMIT,
            check=False,
        )
    if b'"error"' in begun.stdout:  # it refused, and said why
        remove_if_empty(log)
    return begun.stdout


def _reply(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
