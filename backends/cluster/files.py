"""Reads cluster.toml with its cluster.d beside it, and says in one line what is wrong with them.

The person's file is never written. What the program found or deployed stands in cluster.d/*.toml and only adds: where
both name a thing, the person's file wins.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from backends.cluster.inventory import Inventory
from backends.cluster.lines import Lines, Place, index, line_of
from backends.errors import InventoryError

LIMIT: Final = 1 << 20
"""The largest file that is read, in bytes; a hundred nodes take a tenth of it."""

KNOWN_ROUTES: Final = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/health", "/v1",
    "/api/chat", "/api/generate", "/api/tags", "/api/ps", "/api/version", "/api/v0/models", "/api/v0", "/api/v1",
    "/api",
    "/health/liveliness", "/health/readiness", "/health", "/metrics", "/props", "/slots", "/models",
)  # fmt: skip
"""Routes that people copy along with an address; longest first among those sharing an ending."""

_TABLES: Final = ("nodes", "tiers", "endpoints", "checks", "models")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A good inventory, the text of the person's file, and remarks on what was read with a grain of salt."""

    inventory: Inventory
    path: Path
    text: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    path: Path
    text: str
    data: dict[str, Any]

    @cached_property
    def lines(self) -> Lines:
        """Where everything stands; only a mistake asks for that."""
        return index(self.text)


def load(path: Path) -> Loaded:
    """Read and check a cluster; raises InventoryError with file, line, expectation and nearest valid word."""
    own = _read(path)
    fragments = [_read(p) for p in sorted((path.parent / "cluster.d").glob("*.toml"))]
    return _check(own, fragments)


def parse(text: str, path: Path) -> Loaded:
    """Check a cluster given as text; `path` only names it in errors."""
    return _check(_Source(path, text, _toml(path, text)), [])


def _read(path: Path) -> _Source:
    try:
        with path.open("rb") as file:
            raw = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise InventoryError(f"{path}: no such file.", "Write one with: tierdeck init") from None
    except OSError as error:
        raise InventoryError(f"{path}: cannot be read: {error.strerror or error}.") from None
    if len(raw) > LIMIT:
        raise InventoryError(f"{path}: larger than 1 MiB; this is no cluster.toml.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InventoryError(f"{path}, line {line}: not UTF-8 text; expected a TOML file.") from None
    return _Source(path, text, _toml(path, text))


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        if "at end of document" in message:
            raise InventoryError(f"{path}, line {text.count(chr(10)) + 1}: not valid TOML: {message}.") from None
        where, _, _ = message.rpartition("(at line ")
        line = message.rpartition("at line ")[2].split(",")[0]
        raise InventoryError(f"{path}, line {line}: not valid TOML: {where.strip() or message}.") from None
    except ValueError:
        raise InventoryError(f"{path}: not valid TOML: it holds a number of thousands of digits.") from None
    except RecursionError:
        raise InventoryError(f"{path}: not valid TOML: nested too deeply.") from None


def _check(own: _Source, fragments: list[_Source]) -> Loaded:
    merged, origins = _merge(own, fragments)
    remarks = tuple(_cut_routes(merged))
    try:
        inventory = Inventory.model_validate(merged)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda e: (_line(own, origins, e["loc"])[1], -len(e["loc"])))
        raise _explain(own, origins, dict(first)) from None
    for place, wrong, word, valid in inventory.mistakes():
        source, line = _line(own, origins, place)
        expected = _expected(word, valid)
        raise _mistake(source, line, f'{wrong} "{word}".{expected}')
    return Loaded(inventory, own.path, own.text, remarks)


def _merge(own: _Source, fragments: list[_Source]) -> tuple[dict[str, Any], dict[Place, tuple[_Source, Place]]]:
    """The person's data with the fragments' additions, and for each added entry where it came from."""
    merged = dict(own.data)
    origins: dict[Place, tuple[_Source, Place]] = {}
    for source in fragments:
        for key, value in source.data.items():
            if key in _TABLES and isinstance(value, list) and isinstance(merged.get(key, []), list):
                entries = list(merged.get(key, []))
                taken = [entry.get("name") for entry in entries if isinstance(entry, dict)]
                for i, entry in enumerate(value):
                    if isinstance(entry, dict) and entry.get("name") in taken:
                        continue
                    origins[(key, len(entries))] = (source, (key, i))
                    entries.append(entry)
                merged[key] = entries
            elif key == "router" and isinstance(value, dict) and isinstance(merged.get(key, {}), dict):
                merged[key] = value | merged.get(key, {})
            elif key not in merged:
                origins[(key,)] = (source, (key,))
                merged[key] = value
    return merged, origins


def _cut_routes(data: dict[str, Any]) -> list[str]:
    remarks = []
    entries = data.get("endpoints", [])
    copied = [dict(e) if isinstance(e, dict) else e for e in entries] if isinstance(entries, list) else entries
    for entry in copied if isinstance(copied, list) else []:
        url = entry.get("url") if isinstance(entry, dict) else None
        if isinstance(url, str) and (cut := cut_route(url)) != url.rstrip("/"):
            remarks.append(f"{entry.get('name')}: the address was read as {cut}; its route is tierdeck's business.")
            entry["url"] = cut
    if "endpoints" in data:
        data["endpoints"] = copied
    return remarks


def cut_route(url: str) -> str:
    """The address without a known route at its end ("http://h:1/v1/models" -> "http://h:1")."""
    url = url.strip().rstrip("/")
    try:
        path = urlsplit(url).path
    except ValueError:
        return url
    for route in KNOWN_ROUTES:
        if path.endswith(route):
            return url.split("?")[0].split("#")[0].removesuffix(route).rstrip("/")
    return url


def _line(own: _Source, origins: Mapping[Place, tuple[_Source, Place]], place: Place) -> tuple[_Source, int]:
    source, place = _origin(own, origins, place)
    return source, line_of(source.lines, place) or 1


def _origin(own: _Source, origins: Mapping[Place, tuple[_Source, Place]], place: Place) -> tuple[_Source, Place]:
    """The file that a place of the merged data comes from, and where it stands there."""
    for length in (2, 1):
        if (origin := origins.get(place[:length])) is not None:
            source, start = origin
            return source, start + place[length:]
    return own, place


_WANTED: Final = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list in [ ]",
    "list_type": "a list in [ ]",
    "dict_type": "a table",
    "model_type": "a table in { }",
    "model_attributes_type": "a table in { }",
}


def _explain(own: _Source, origins: Mapping[Place, tuple[_Source, Place]], error: dict[str, Any]) -> InventoryError:
    source, place = _origin(own, origins, tuple(part for part in error["loc"] if not _branch(part)))
    line = line_of(source.lines, place) or 1
    what = _spoken(place, source.data)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        valid = _keys_at(place[:-1])
        text = f'unknown key "{place[-1]}"{_inside(place, source.data)}.{_expected(str(place[-1]), valid)}'
    elif kind == "missing" and (meant := _misspelt(place, source.data)):
        source_line = line_of(source.lines, (*place[:-1], meant)) or line
        text = f'unknown key "{meant}"{_inside(place, source.data)}. Did you mean "{place[-1]}"?'
        return _mistake(source, source_line, text)
    elif kind == "missing":
        text = f'"{place[-1]}" is missing{_inside(place, source.data)}.'
    elif kind in ("literal_error", "enum"):
        text = f"{what}: expected {context.get('expected')}.{_near_value(source, place, context)}"
    elif kind in ("tuple_type", "list_type") and len(place) == 1 and place[0] in _TABLES:
        text = f"expected [[{place[0]}]] in double brackets, once for each."
    elif kind == "value_error":
        text = f"{what}: expected {context.get('error')}."
    else:
        text = f"{what}: expected {_WANTED.get(kind) or error['msg'].removeprefix('Input should be ').rstrip('.')}."
    return _mistake(source, line, text)


def _mistake(source: _Source, line: int, text: str) -> InventoryError:
    """What is wrong, fit for a terminal whatever the file quotes."""
    return InventoryError(f"{source.path}, line {line}: {''.join(c if c.isprintable() else '?' for c in text)[:1000]}")


def _misspelt(place: Place, data: Mapping[str, Any]) -> str:
    """The unknown key that most likely is the one missing at `place`; "" where none comes near."""
    table: Any = data
    try:
        for part in place[:-1]:
            table = table[part]
    except (KeyError, IndexError, TypeError):
        return ""
    strange = [str(key) for key in table if key not in _keys_at(place[:-1])] if isinstance(table, dict) else []
    return next(iter(difflib.get_close_matches(str(place[-1]), strange, n=1, cutoff=0.5)), "")


def _branch(part: str | int) -> bool:
    """Whether pydantic put this part in to name a branch of a union, not a place in the file."""
    return isinstance(part, str) and (
        part in ("Recover", "Docker", "Ssh", "Wake") or part.startswith(("literal[", "tuple["))
    )


def _spoken(place: Place, data: Mapping[str, Any]) -> str:
    """A place in words: `endpoints "remote/a" engine` where the entry has a name, else its running number."""
    words: list[str] = []
    value: Any = data
    for part in place:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
        if isinstance(part, str):
            words.append(part)
        else:
            name = value.get("name") if isinstance(value, dict) else None
            words.append(f'"{name[:60]}"' if isinstance(name, str) and name.isprintable() else f"no. {part + 1}")
    return " ".join(word for word in words if word != "[key]") or "this file"


def _inside(place: Place, data: Mapping[str, Any]) -> str:
    return f" in {_spoken(place[:-1], data)}" if len(place) > 1 else " at the top level"


def _expected(word: str, valid: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    if near:
        return f' Did you mean "{near[0]}"?'
    return f" Known here: {', '.join(valid[:12])}." if valid else ""


def _near_value(source: _Source, place: Place, context: Mapping[str, Any]) -> str:
    value: Any = source.data
    if place and place[-1] == "[key]":
        value, place = place[-2], ()
    try:
        for part in place:
            value = value[part]
    except (KeyError, IndexError, TypeError):
        return ""
    words = tuple(w.strip().strip("'") for w in str(context.get("expected", "")).replace(" or ", ",").split(","))
    near = difflib.get_close_matches(str(value)[:80], words, n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


def _keys_at(place: Place) -> tuple[str, ...]:
    """The keys that the inventory allows in the table at `place`."""
    model: type[BaseModel] = Inventory
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        found = _model_in(field.annotation) if field else None
        if found is None:
            return ()
        model = found
    return tuple(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (found := _model_in(part)) is not None:
            return found
    return None
