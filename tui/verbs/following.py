"""Follows a procedure from the command line: Ctrl+C cancels at the step's edge, a hang-up only detaches.

On a terminal a line answers the question that is open: retry, skip, hold or abort, or as much of it as is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Coroutine
from contextlib import aclosing
from typing import Any, Final

from backends.errors import ProcedureError
from backends.procedures.commands import Procedures
from backends.procedures.runner import CHOICES

EXIT: Final = {"done": 0, "failed": 1, "halted": 1, "cancelled": 130}
"""Exit codes by outcome."""

_SILENT: Final = frozenset({"created", "resumed"})


async def follow(procedures: Procedures, begins: Awaitable[str], *, as_json: bool) -> int:
    """Print the events of the procedure that `begins` names; the exit code by its outcome (1 where it was lost)."""
    loop = asyncio.get_running_loop()
    begun = asyncio.ensure_future(begins)
    tasks: set[asyncio.Task[None]] = set()

    def own(work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def answer() -> None:
        words = sys.stdin.readline()
        if words.strip():
            own(_answer(procedures, begun, words.strip().lower()))
        elif not words:
            loop.remove_reader(0)

    loop.add_signal_handler(signal.SIGINT, lambda: own(_cancel(procedures, begun)))
    asked = not as_json and can_ask()
    if asked:
        loop.add_reader(0, answer)
    outcome = "failed"
    try:
        async with aclosing(procedures.attach(await begun)) as events:
            async for event in events:
                outcome = event.get("outcome") or "failed"
                if event["event"] not in _SILENT:
                    print(json.dumps(event, ensure_ascii=False) if as_json else _words(event), flush=True)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if asked:
            loop.remove_reader(0)
        for task in tasks:
            task.cancel()
    return EXIT.get(outcome, 1)


async def _cancel(procedures: Procedures, begun: asyncio.Future[str]) -> None:
    try:
        when = await procedures.cancel(await asyncio.shield(begun))
    except ProcedureError as error:
        print(f"tierdeck: {error}", file=sys.stderr)
        return
    words = "stopping now" if when == "now" else "stops at the step's edge; Ctrl+C again stops it now"
    print(f"tierdeck: {words}", file=sys.stderr)


async def _answer(procedures: Procedures, begun: asyncio.Future[str], words: str) -> None:
    choice = next((choice for choice in CHOICES if choice.startswith(words)), words)
    try:
        await procedures.answer(await asyncio.shield(begun), choice)
    except ProcedureError as error:
        print(f"tierdeck: {error}", file=sys.stderr)


def _words(event: dict[str, Any]) -> str:
    detail = event.get("detail")
    text = detail.get("text", "") if isinstance(detail, dict) else detail or ""
    at = str(event["at"])[11:19]
    step = "" if event["step"] is None else f" {event['step'] + 1}"
    outcome = f" {event['outcome']}" if event.get("outcome") else ""
    return f"{at}  {event['event'].replace('_', ' ')}{step}{outcome}  {text}".rstrip()


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but yes is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return os.isatty(0)
