"""Fields of the API's objects, whatever stands in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The table at `key`; an empty one where there is none."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def each(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The tables of the list at `key`; none where there is no list."""
    found = value.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
