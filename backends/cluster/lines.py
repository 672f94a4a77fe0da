"""Finds the line of cluster.toml at which a value stands, so that a mistake can be shown where it was made.

tomllib forgets positions; this reads headers and keys only, and is asked only once something is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Place = tuple[str | int, ...]
Lines = Mapping[Place, int]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=(.*)$"""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def line_of(lines: Lines, place: Place) -> int | None:
    """The 1-based line of `place`, or of the nearest thing around it that has a line of its own."""
    for length in range(len(place), 0, -1):
        if (line := lines.get(place[:length])) is not None:
            return line
    return None


def index(text: str) -> Lines:
    """The lines of everything that has one."""
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    closing = ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
            continue
        if header := _HEADER.match(line):
            table = _table(_parts(header[2]), header[1] == "[[", counts)
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            parts = _parts(key[1])
            for length in range(1, len(parts) + 1):
                found.setdefault(table + parts[:length], number)
            closing = _left_open(key[2])
            if key[2].lstrip().startswith("{"):
                for inner in _INLINE.finditer(key[2]):
                    found.setdefault((*table, *parts, inner[1]), number)
    return found


_INLINE = re.compile(r"[{,]\s*([A-Za-z0-9_-]+)\s*=")


def _parts(dotted: str) -> Place:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _table(parts: Place, repeated: bool, counts: dict[Place, int]) -> Place:
    """The place a header opens: names with the running number behind each array of tables."""
    place: Place = ()
    for i, part in enumerate(parts):
        place = (*place, part)
        if i == len(parts) - 1 and repeated:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place


def _left_open(value: str) -> str:
    for quotes in ('"""', "'''"):
        if value.count(quotes) % 2:
            return quotes
    return ""
