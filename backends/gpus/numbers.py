"""Figures as drivers print them: a number within reason, or None."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*(?:MiB|MB|W|C|%)?\s*", re.IGNORECASE)


def number(value: object, low: float, high: float) -> float | None:
    """The number in `value` if it lies within `low` and `high`; None for [N/A], ERR!, and anything else."""
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value[:40])
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if low <= value <= high else None


def mebibytes(value: object) -> float | None:
    """An amount of memory in MiB; up to 16 TiB, which no GPU has."""
    return number(value, 0, 2**24)


def percent(value: object) -> float | None:
    """A share in percent."""
    return number(value, 0, 100)


def celsius(value: object) -> float | None:
    """A temperature of silicon."""
    return number(value, -50, 200)


def watts(value: object) -> float | None:
    """A power draw."""
    return number(value, 0, 10_000)
