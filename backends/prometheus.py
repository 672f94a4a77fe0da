"""Prometheus text: the samples of the metrics that are wanted, whoever exports them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

LONGEST_LINE: Final = 4096
"""Characters; a longer line is no sample of ours."""

MOST: Final = 2.0**53
"""No figure of ours comes near; what is beyond (or infinite, negative, no number) is no sample."""

_LABEL: Final = re.compile(r'(?:^|,)\s*(\w+)="((?:[^"\\]|\\.)*)"')


def samples(text: str, wanted: Iterable[str]) -> list[tuple[str, str, float]]:
    """The samples of the `wanted` metrics as (name, labels, value); broken lines are passed over."""
    names = set(wanted)
    found = []
    for line in text.split("\n"):
        name, brace, rest = line.partition("{") if "{" in line else line.partition(" ")
        if name not in names or len(line) > LONGEST_LINE:
            continue
        labels, closed, value_text = rest.rpartition("}") if brace == "{" else ("", "}", rest)
        value = _number(value_text) if closed else None
        if value is not None:
            found.append((name, labels, value))
    return found


def labelled(labels: str) -> dict[str, str]:
    """The labels of a sample by their names."""
    return dict(_LABEL.findall(labels))


def _number(text: str) -> float | None:
    """The value at the start of `text`, which may be followed by a timestamp."""
    words = text.split()
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        return None
    return value if 0 <= value < MOST else None
