"""Reads the TOML files that people write, and says in one line what is wrong with one: file, line, nearest word."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel

from backends.cluster.lines import Lines, Place, index, line_of
from backends.errors import InventoryError

LIMIT: Final = 1 << 20
"""The largest file that is read, in bytes; a hundred nodes take a tenth of it."""


@dataclass(frozen=True)
class Source:
    """A file: where it lies, its text, and what stands in it."""

    path: Path
    text: str
    data: dict[str, Any]

    @cached_property
    def lines(self) -> Lines:
        """Where everything stands; only a mistake asks for that."""
        return index(self.text)


def read(path: Path, *, advice: str = "Write one with: tierdeck init") -> Source:
    """A file and what stands in it; InventoryError, with the line, where it is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise InventoryError(f"{path}: no such file.", advice) from None
    except OSError as error:
        raise InventoryError(f"{path}: cannot be read: {error.strerror or error}.") from None
    if len(raw) > LIMIT:
        raise InventoryError(f"{path}: larger than 1 MiB; too large to be one of ours.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InventoryError(f"{path}, line {line}: not UTF-8 text; expected a TOML file.") from None
    return Source(path, text, parse_toml(path, text))


def parse_toml(path: Path, text: str) -> dict[str, Any]:
    """What stands in a text; InventoryError, with the line, where it is no TOML."""
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


def explain(
    source: Source, place: Place, error: Mapping[str, Any], root: type[BaseModel], tables: Collection[str] = ()
) -> InventoryError:
    """A validation error of pydantic as file, line, what was expected, and the nearest valid word.

    `place` is where it stands in `source`, `root` the model that was expected, `tables` its arrays of tables.
    """
    line = line_of(source.lines, place) or 1
    what = _spoken(place, source.data)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        valid = _keys_at(root, place[:-1])
        text = f'unknown key "{place[-1]}"{_inside(place, source.data)}.{nearest(str(place[-1]), valid)}'
    elif kind == "missing" and (meant := _misspelt(root, place, source.data)):
        source_line = line_of(source.lines, (*place[:-1], meant)) or line
        text = f'unknown key "{meant}"{_inside(place, source.data)}. Did you mean "{place[-1]}"?'
        return mistake(source, source_line, text)
    elif kind == "missing":
        text = f'"{place[-1]}" is missing{_inside(place, source.data)}.'
    elif kind in ("literal_error", "enum"):
        text = f"{what}: expected {context.get('expected')}.{_near_value(source, place, context)}"
    elif kind in ("tuple_type", "list_type") and len(place) == 1 and place[0] in tables:
        text = f"expected [[{place[0]}]] in double brackets, once for each."
    elif kind == "value_error":
        text = f"{what}: expected {context.get('error')}."
    else:
        text = f"{what}: expected {_WANTED.get(kind) or error['msg'].removeprefix('Input should be ').rstrip('.')}."
    return mistake(source, line, text)


def mistake(source: Source, line: int, text: str) -> InventoryError:
    """What is wrong, fit for a terminal whatever the file quotes."""
    return InventoryError(f"{source.path}, line {line}: {''.join(c if c.isprintable() else '?' for c in text)[:1000]}")


def plain_place(place: Sequence[str | int]) -> Place:
    """A place in pydantic's words, without what only names a branch of a union."""
    return tuple(part for part in place if not _is_branch(part))


def _misspelt(root: type[BaseModel], place: Place, data: Mapping[str, Any]) -> str:
    """The unknown key that most likely is the one missing at `place`; "" where none comes near."""
    table: Any = data
    try:
        for part in place[:-1]:
            table = table[part]
    except (KeyError, IndexError, TypeError):
        return ""
    known = _keys_at(root, place[:-1])
    strange = [str(key) for key in table if key not in known] if isinstance(table, dict) else []
    return next(iter(difflib.get_close_matches(str(place[-1]), strange, n=1, cutoff=0.5)), "")


def _is_branch(part: str | int) -> bool:
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


def nearest(word: str, valid: tuple[str, ...]) -> str:
    """The valid word that was most likely meant, or those there are, as the end of a sentence."""
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    if near:
        return f' Did you mean "{near[0]}"?'
    return f" Known here: {', '.join(valid[:12])}." if valid else ""


def _near_value(source: Source, place: Place, context: Mapping[str, Any]) -> str:
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


def _keys_at(root: type[BaseModel], place: Place) -> tuple[str, ...]:
    """The keys that `root` allows in the table at `place`."""
    model = root
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
