"""The step that writes a file of cluster.d, and what stands there once a plan is done."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from backends.cluster.files import FOLDER, load
from backends.errors import ProcedureError
from backends.procedures.context import Context
from backends.procedures.plan import Plan, Step
from backends.procedures.runner import Report

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fragment:
    """What the step is told: a file of cluster.d beside `cluster`, as it will be and as it was (None: not there).

    `alone` says that the folder was not there either, `later` is what a later step of the plan makes of it.
    """

    cluster: str
    file: str
    text: str
    before: str | None = None
    alone: bool = False
    later: str | None = None


def coming_files(plan: Plan) -> dict[str, str]:
    """The files of cluster.d that a plan writes: its own steps already speak of what stands there."""
    written = [step.arguments for step in plan.steps if step.kind == "write_fragment"]
    return {str(told["file"]): str(told["text"]) for told in written}


class WriteFragment:
    """Writes a file of cluster.d, whole or not at all; the person's own file is never touched."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told = parsed(Fragment, step)
        self._path = Path(self._told.cluster).parent / FOLDER / self._told.file

    async def check(self) -> str:
        """It says so already."""
        said = await asyncio.to_thread(self._read)
        return "it says so already" if said is not None and said in (self._told.text, self._told.later) else ""

    async def apply(self, report: Report) -> None:
        """Beside it, then into its place; ProcedureError where somebody else has changed it meanwhile."""
        await asyncio.to_thread(self._change, self._told.before, self._told.text)

    async def verify(self, report: Report) -> str:
        """The whole cluster can be read with it."""
        await asyncio.to_thread(load, Path(self._told.cluster))
        return f"{FOLDER}/{self._told.file} is written"

    async def undo(self) -> None:
        """What was there before."""
        await self.revert(lambda detail: None)

    async def revert(self, report: Report) -> str:
        """What was there before, byte for byte."""
        return await asyncio.to_thread(self._back)

    def _back(self) -> str:
        told, now = self._told, self._read()
        if now != told.text:
            return ""  # not written yet, or taken back already
        if told.before is not None:
            self._change(told.text, told.before)
            return f"{FOLDER}/{told.file} is as it was"
        self._path.unlink()
        if told.alone and not any(self._path.parent.iterdir()):
            self._path.parent.rmdir()
        return f"{FOLDER}/{told.file} is removed"

    def _read(self) -> str | None:
        try:
            return self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ProcedureError(f"{self._path} cannot be read: {error}.") from None

    def _change(self, expected: str | None, text: str) -> None:
        if self._read() not in (expected, text):
            raise ProcedureError(f"{self._path} was changed by somebody else meanwhile.", "Look at it, and plan anew.")
        beside = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(exist_ok=True)
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ProcedureError(f"{self._path} cannot be written: {error.strerror or error}.") from None


def parsed(kind: type[T], step: Step) -> T:
    """What a step is told; ProcedureError where it cannot be read."""
    try:
        return TypeAdapter(kind).validate_python(dict(step.arguments))
    except ValidationError as error:
        raise ProcedureError(f'The step "{step.label}" cannot be read: {error.error_count()} mistakes.') from None
