"""Frozen dataclasses as JSON and back, by their own types: what a field gains or loses needs no word here.

Fields that have their default are left out; fields unknown to this version are passed over.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from backends.cluster.reading import ProcedureReading, Reading
from backends.cluster.snapshot import ClusterSnapshot

_READINGS: Final[dict[str, type]] = {kind.__name__: kind for kind in get_args(Reading)}
_PLAIN: Final = (str, int, float, bool)


def encode(value: object) -> Any:
    """A frozen value as JSON data."""
    if value is None or isinstance(value, _PLAIN):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        return {str(key): encode(each) for key, each in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [encode(each) for each in value]
    kind: type = type(value)
    return {name: encode(own) for name, default in _defaults(kind) if (own := getattr(value, name)) != default}


def encode_reading(reading: Reading) -> dict[str, Any]:
    """A reading with the name of its kind."""
    return {"kind": type(reading).__name__, **encode(reading)}


def encode_procedures(reading: ProcedureReading, last: ProcedureReading) -> dict[str, Any]:
    """A reading of procedures in which each that is as it was in the last one stands as its id alone."""
    known = {p.id: p for p in last.procedures}
    told = [p.id if known.get(p.id) == p else encode(p) for p in reading.procedures]
    return encode_reading(reading) | {"procedures": told}


def source_of(reading: Reading) -> str:
    """The source of a reading: its kind, and what it is about."""
    about = next((own for field in fields(reading) if isinstance(own := getattr(reading, field.name), str)), "")
    return f"{type(reading).__name__}:{about}"


def decode_reading(data: object) -> Reading | None:
    """The reading of some JSON; None for a kind that this version does not know, ValueError for what is none."""
    if not isinstance(data, dict):
        raise ValueError("a reading was expected")
    kind = _READINGS.get(str(data.get("kind")))
    return None if kind is None else _decoder(kind)(data)


def decode_snapshot(data: object) -> ClusterSnapshot:
    """The snapshot of some JSON; ValueError for what is none."""
    found: ClusterSnapshot = _decoder(ClusterSnapshot)(data)
    return found


@cache
def _defaults(kind: type) -> tuple[tuple[str, object], ...]:
    """Each field with its default (or something equal to nothing)."""
    return tuple(
        (
            field.name,
            field.default
            if field.default is not MISSING
            else field.default_factory()
            if field.default_factory is not MISSING
            else MISSING,
        )
        for field in fields(kind)
    )


@cache
def _decoder(hint: Any) -> Callable[[Any], Any]:
    """What makes a value of type `hint` from JSON."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [_decoder(each) for each in arguments if each is not type(None)]
        if len(inner) != 1:
            return _same
        return lambda data: None if data is None else inner[0](data)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        each = _decoder(arguments[0])
        return lambda data: tuple(each(item) for item in _is(list, data))
    if origin is tuple:
        several = [_decoder(each) for each in arguments]
        return lambda data: tuple(one(item) for one, item in zip(several, _is(list, data), strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        value = _decoder(arguments[1])
        return lambda data: {key: value(item) for key, item in _is(dict, data).items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if isinstance(hint, type) and is_dataclass(hint):
        return _record(hint)
    if hint is float:
        return lambda data: float(_is((int, float), data))
    if hint in _PLAIN:
        return lambda data: _is(hint, data)
    return _same


def _record(kind: type) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    decoders = {name: _decoder(hints[name]) for name, _ in _defaults(kind)}

    def make(data: Any) -> Any:
        given = _is(dict, data)
        try:
            return kind(**{name: decode(given[name]) for name, decode in decoders.items() if name in given})
        except TypeError as error:
            raise ValueError(f"no {kind.__name__}: {error}") from None

    return make


def _is(kind: Any, data: Any) -> Any:
    if not isinstance(data, kind):
        raise ValueError(f"{kind} was expected, not {type(data).__name__}")
    return data


def _same(data: Any) -> Any:
    return data
