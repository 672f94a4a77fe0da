"""`tierdeck route --classify FILE.jsonl`: the task of every prompt in a file, without an inventory or a server."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from backends.errors import InventoryError, TierdeckError
from backends.routing.classify import classify


def run(arguments: argparse.Namespace) -> int:
    """Print one line of JSON for each line of the file, in its order; exit 1 if any line could not be read."""
    if arguments.prompt:
        raise InventoryError("--classify reads its prompts from a file.", "Leave the prompt away, or the file.")
    failed = False
    with ExitStack() as stack:
        for line in _opened(arguments.classify, stack):
            answer = _classified(line)
            failed = failed or "error" in answer
            print(json.dumps(answer))
    return 1 if failed else 0


def _opened(name: str, stack: ExitStack) -> IO[bytes]:
    if name == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(Path(name).open("rb"))
    except OSError as error:
        why = error.strerror or str(error)
        raise TierdeckError(
            f"{name} cannot be read: {why}.", "Name a file of JSON lines, or - to read them here."
        ) from None


def _classified(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return {"error": "the line is not UTF-8"}
    except (ValueError, RecursionError):
        return {"error": 'the line is not JSON; expected {"text": "..."}'}
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return {"error": '"text" is missing or no string'}
    image, kind = row.get("image", False), row.get("kind")
    if not isinstance(image, bool | None):
        return {"error": '"image" is neither true nor false'}
    if kind not in (None, "embed"):
        return {"error": '"kind" is neither null nor "embed"'}
    found = classify(row["text"], image=bool(image), kind=kind)
    return {"task": found.task, "confidence": found.confidence, "runner_up": found.runner_up}
