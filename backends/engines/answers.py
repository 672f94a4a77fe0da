"""What engines send back on a prompt, read field by field: nothing in it is taken for granted."""

from __future__ import annotations

import json
from dataclasses import dataclass

from backends.text import safe


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a streamed answer, or a whole answer that came at once."""

    text: str = ""
    reasoning: str = ""
    reason: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_s: float | None = None
    error: str = ""


def read_piece(text: str) -> Piece | None:
    """The piece that `text` is; None where it is none."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    if said.get("error"):
        return Piece(error=error_words(said["error"]))
    choices = said.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    choice = first if isinstance(first, dict) else {}
    delta = choice.get("delta") or choice.get("message") or {}
    if not isinstance(delta, dict) or not ("choices" in said or "usage" in said):
        return None
    usage = said.get("usage") if isinstance(said.get("usage"), dict) else {}
    timings = said.get("timings") if isinstance(said.get("timings"), dict) else {}
    return Piece(
        text=_words(delta, "content"),
        reasoning=_words(delta, "reasoning_content") or _words(delta, "reasoning"),
        reason=_words(choice, "finish_reason"),
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=_count(usage, "completion_tokens"),
        tokens_per_s=_rate(timings, "predicted_per_second"),
    )


def error_words(error: object) -> str:
    """What an engine says went wrong, in whichever of its shapes."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("error") or error.get("type")
    return error[:300] if isinstance(error, str) and error.strip() else "it gives no reason"


def _words(table: dict[str, object], key: str) -> str:
    value = table.get(key)
    return safe(value) if isinstance(value, str) else ""


def _count(table: object, key: str) -> int | None:
    value = table.get(key) if isinstance(table, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _rate(table: object, key: str) -> float | None:
    value = table.get(key) if isinstance(table, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e9 else None
