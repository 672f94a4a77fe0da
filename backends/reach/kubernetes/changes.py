"""What differs between two states of an object, and which of its fields we applied. Pure.

Managed fields after the API's documents on server-side apply: `f:` is a field, `k:` an item of a list by its keys, `v:`
a value of a set, `.` the thing itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from backends.reach.kubernetes.shapes import HELD, WANTED
from backends.text import plain

MARK: Final = "tierdeck/deployment"
"""The annotation that says which deployment declared an object."""

NOTE: Final = "tierdeck/filled"
"""The annotation on a claim that says what it was filled with, once that is whole."""

_SERVERS: Final = ("managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink")
_ANNOTATIONS: Final = (MARK, NOTE, WANTED, HELD, "deployment.kubernetes.io/revision")


def differences(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> tuple[str, ...]:
    """Each field that differs, as a line; what the server keeps of its own is left out."""
    old = dict(_leaves(stripped(before), "")) if before is not None else {}
    new = dict(_leaves(stripped(after), ""))
    lines = []
    for path in [*old, *(path for path in new if path not in old)]:
        if old.get(path) == new.get(path):
            continue
        if path not in old:
            lines.append(f"+ {path}: {_shown(new[path])}")
        elif path not in new:
            lines.append(f"- {path}: {_shown(old[path])}")
        else:
            lines.append(f"{path}: {_shown(old[path])} -> {_shown(new[path])}")
    return tuple(lines)


def marked(thing: Mapping[str, Any], deployment: str) -> dict[str, Any]:
    """An object that bears the mark of a deployment, by which we know it again."""
    meta = thing["metadata"]
    annotations = {**(meta.get("annotations") or {}), MARK: deployment}
    return {**thing, "metadata": {**meta, "annotations": annotations}}


def stripped(found: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what names it, what the server keeps of its own, its status and our marks."""
    meta = {k: v for k, v in (found.get("metadata") or {}).items() if k not in _SERVERS}
    kept = {k: v for k, v in (meta.pop("annotations", None) or {}).items() if k not in _ANNOTATIONS}
    meta |= {"annotations": kept} if kept else {}
    return {**{k: v for k, v in found.items() if k not in ("apiVersion", "kind", "status")}, "metadata": meta}


def owned(found: Mapping[str, Any], manager: str) -> dict[str, Any]:
    """What `manager` applied of an object: applying it anew gives up whatever it came to own since."""
    meta = found.get("metadata") or {}
    entries = [
        entry
        for entry in meta.get("managedFields") or ()
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")
    ]
    picked = _picked(found, entries[0].get("fieldsV1") or {}) if entries else {}
    named = {key: meta[key] for key in ("name", "namespace") if key in meta}
    told = {"apiVersion": found.get("apiVersion"), "kind": found.get("kind")}
    return {**picked, **told, "metadata": {**picked.get("metadata", {}), **named}}


def _picked(value: Any, fields: Mapping[str, Any]) -> Any:
    """The part of a value that is named by managed fields."""
    inner = {key: deeper for key, deeper in fields.items() if key != "."}
    if not fields or not isinstance(value, Mapping | list):
        return value
    if isinstance(value, Mapping):
        names = {key[2:]: deeper for key, deeper in inner.items() if key.startswith("f:")}
        return {name: _picked(value[name], deeper) for name, deeper in names.items() if name in value}
    found = []
    for key, deeper in inner.items():
        wanted = json.loads(key[2:])
        if key.startswith("v:"):
            found += [item for item in value if item == wanted]
        elif key.startswith("k:"):
            items = [item for item in value if isinstance(item, Mapping) and wanted.items() <= item.items()]
            found += [{**wanted, **_picked(item, deeper)} for item in items[:1]]
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            name = f'["{key}"]' if "." in key or "/" in key else f".{key}" if path else key
            yield from _leaves(inner, f"{path}{name}")
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{item.get('name', item.get('mountPath', number))}]")
    elif value is not None:
        yield path, value


def _shown(value: Any) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 300)
