"""Follows a procedure from the command line: Ctrl+C cancels at the step's edge, a hang-up only detaches.

On a terminal a line answers the question that is open: retry, skip, hold, abort or rollback, or as much as is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Coroutine
from contextlib import aclosing
from typing import Any, Final, TextIO

from backends.cluster.reading import ProcedureState
from backends.errors import ProcedureError
from backends.procedures.commands import Procedures
from backends.procedures.events import StepEvent, fold
from backends.procedures.runner import CHOICES, CONTINUE, ROLLBACK

EXIT: Final = {"done": 0, "failed": 1, "halted": 1, "cancelled": 130}
"""Exit codes by outcome."""

TELL_EVERY: Final = 5.0
"""Seconds between two lines about the same wait."""

_SILENT: Final = frozenset({"created", "resumed"})


async def follow(procedures: Procedures, begins: Awaitable[str], *, as_json: bool, to: TextIO | None = None) -> int:
    """Print the events of the procedure that `begins` names; the exit code by its outcome (1 where it was lost).

    They go to standard output, unless another stream is named.
    """
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
    told = Telling()
    try:
        async with aclosing(procedures.attach(await begun)) as events:
            async for event in events:
                outcome = event.outcome or "failed"
                if event.event not in _SILENT:
                    lines = [json.dumps(event.to_json(), ensure_ascii=False)] if as_json else told.lines(event)
                    print(*lines, sep="\n", end="\n" if lines else "", file=to, flush=True)
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
    choice = next((choice for choice in (*CHOICES, ROLLBACK, CONTINUE) if choice.startswith(words)), words)
    try:
        await procedures.answer(await asyncio.shield(begun), choice)
    except ProcedureError as error:
        print(f"tierdeck: {error}", file=sys.stderr)


class Telling:
    """Turns events into lines for people; how a step waits is told when it begins, and every few seconds.

    A recovery ends with what worked, and the time each took.
    """

    def __init__(self) -> None:
        self._state: ProcedureState | None = None
        self._stage: tuple[int | None, str] = (None, "")
        self._told = 0.0

    def lines(self, event: StepEvent) -> list[str]:
        """None to several lines."""
        self._state = fold(self._state, event)
        if event.log:
            return [_line(event, "log", text) for text in event.log]
        stage = (event.step, event.waits_at)
        if event.waits_at and stage == self._stage and event.at - self._told < TELL_EVERY:
            return []
        self._stage, self._told = stage, event.at
        return [_line(event, event.event.replace("_", " "), event.text), *self._summary(event)]

    def _summary(self, event: StepEvent) -> list[str]:
        state = self._state
        if event.event != "finished" or state is None or state.kind != "recovery":
            return []
        times = [
            f"  {step.ended - step.started:6.1f} s  {step.label}: {step.state}"
            for step in state.steps
            if step.started is not None and step.ended is not None and step.state in ("done", "failed")
        ]
        return [*times, f"  {event.at - state.started:6.1f} s  in all"]


def _line(event: StepEvent, word: str, text: str) -> str:
    step = "" if event.step is None else f" {event.step + 1}"
    outcome = f" {event.outcome}" if event.outcome else ""
    return f"{time.strftime('%H:%M:%S', time.localtime(event.at))}  {word}{step}{outcome}  {text}".rstrip()


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but yes is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return os.isatty(0)
