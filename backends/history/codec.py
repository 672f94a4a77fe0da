"""Frozen dataclasses as JSON and back, by their own types: what a field gains or loses needs no word here.

Fields that have their default are left out; fields unknown to this version are passed over. What is written is text,
that of a snapshot in pieces: made at once, that of a thousand endpoints would hold up all other threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from types import GenericAlias
from typing import Any, Final, get_args

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError

from backends.cluster.reading import ProcedureReading, Reading
from backends.cluster.snapshot import ClusterSnapshot

_READINGS: Final[dict[str, type[Reading]]] = {kind.__name__: kind for kind in get_args(Reading)}
_LARGE: Final = ("endpoints", "nodes")
"""The fields of a snapshot that are made in pieces."""


def text_of(data: object) -> str:
    """JSON data as text."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def snapshot_pieces(snapshot: ClusterSnapshot) -> Iterator[str]:
    """A snapshot as JSON text, in a piece for each of its endpoints and nodes."""
    for lead, name in zip("{,", _LARGE, strict=True):
        yield f"{lead}{text_of(name)}:{{"
        for i, (key, value) in enumerate(getattr(snapshot, name).items()):
            yield f"{',' if i else ''}{text_of(key)}:{_text(value)}"
        yield "}"
    yield f",{_text(snapshot, without=_LARGE)[1:]}"


def reading_text(reading: Reading) -> str:
    """A reading as JSON text, with the name of its kind."""
    return _with([("kind", text_of(type(reading).__name__))], _text(reading))


def procedures_text(reading: ProcedureReading, last: ProcedureReading) -> str:
    """A reading of procedures in which each that is as it was in the last one stands as its id alone."""
    known = {p.id: p for p in last.procedures}
    told = (text_of(p.id) if known.get(p.id) == p else _text(p) for p in reading.procedures)
    members = [("kind", text_of(type(reading).__name__)), ("procedures", f"[{','.join(told)}]")]
    return _with(members, _text(reading, without=("procedures",)))


def source_of(reading: Reading) -> str:
    """The source of a reading: its kind, and what it is about."""
    about = next((own for field in fields(reading) if isinstance(own := getattr(reading, field.name), str)), "")
    return f"{type(reading).__name__}:{about}"


def decode_reading(data: object) -> Reading | None:
    """The reading of some JSON; None for a kind that this version does not know, ValueError for what is none."""
    if not isinstance(data, dict):
        raise ValueError("a reading was expected")
    kind = _READINGS.get(str(data.get("kind")))
    found: Reading | None = None if kind is None else _value(kind, data)
    return found


def decode_snapshot(data: object) -> ClusterSnapshot:
    """The snapshot of some JSON; ValueError for what is none."""
    found: ClusterSnapshot = _value(ClusterSnapshot, data)
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[tuple[Any]]:
    """What writes and reads values of a type, as tuples of one: a dataclass alone would not take our setting."""
    alone: Any = GenericAlias(tuple, (kind,))
    return TypeAdapter(alone, config=ConfigDict(ser_json_inf_nan="constants"))


def _text(value: object, *, without: Iterable[str] = ()) -> str:
    kind: Any = type(value)
    adapter, left_out = _adapter(kind), {0: set(without)}
    try:
        return adapter.dump_json((value,), exclude_defaults=True, exclude=left_out).decode()[1:-1]
    except PydanticSerializationError:  # half a character, which JSON of others may hold: ours does, too
        return text_of(adapter.dump_python((value,), mode="json", exclude_defaults=True, exclude=left_out)[0])


def _value(kind: Any, data: object) -> Any:
    return _adapter(kind).validate_python((data,))[0]


def _with(members: Iterable[tuple[str, str]], rest: str) -> str:
    """A JSON object of more members, whose values are text already, before those that it has."""
    told = [f"{text_of(name)}:{value}" for name, value in members]
    return "{" + ",".join([*told, rest[1:-1]] if rest != "{}" else told) + "}"
