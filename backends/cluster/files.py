"""Reads cluster.toml with its cluster.d beside it, and says in one line what is wrong with them.

The person's file is never written. What the program found or deployed stands in cluster.d/*.toml and only adds: where
both name a thing, the person's file wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from backends.cluster.inventory import Inventory, Joining, Joins
from backends.cluster.lines import Place, line_of
from backends.cluster.written import Source, explain, mistake, nearest, parse_toml, plain_place, read

FOLDER: Final = "cluster.d"
"""Beside cluster.toml: what the program found or deployed."""

KNOWN_ROUTES: Final = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/health", "/v1",
    "/api/chat", "/api/generate", "/api/tags", "/api/ps", "/api/version", "/api/v0/models", "/api/v0", "/api/v1",
    "/api",
    "/health/liveliness", "/health/readiness", "/health", "/metrics", "/props", "/slots", "/models",
)  # fmt: skip
"""Routes that people copy along with an address; longest first among those sharing an ending."""

_TABLES: Final = ("clusters", "nodes", "tiers", "endpoints", "checks", "models")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A good inventory, the text of the person's file, and remarks on what was read with a grain of salt."""

    inventory: Inventory
    path: Path
    text: str
    remarks: tuple[str, ...] = ()


def load(path: Path, *, with_files: Mapping[str, str] | None = None) -> Loaded:
    """Read and check a cluster; raises InventoryError with file, line, expectation and nearest valid word.

    `with_files` are files of cluster.d, name to text, as they will be: the cluster is read as if they stood there.
    """
    own, folder = read(path), path.parent / FOLDER
    found = {each.name: each for each in folder.glob("*.toml")}
    coming = {name: Source(folder / name, text, parse_toml(folder / name, text)) for name, text in _items(with_files)}
    return _check(own, [coming.get(name) or read(found[name]) for name in sorted({*found, *coming})])


def _items(files: Mapping[str, str] | None) -> list[tuple[str, str]]:
    return list(files.items()) if files else []


def parse(text: str, path: Path) -> Loaded:
    """Check a cluster given as text; `path` only names it in errors."""
    return _check(Source(path, text, parse_toml(path, text)), [])


def _check(own: Source, fragments: list[Source]) -> Loaded:
    merged, origins = _merge(own, fragments)
    remarks = tuple(_cut_routes(merged))
    try:
        inventory = Inventory.model_validate(merged)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda e: (_line(own, origins, e["loc"])[1], -len(e["loc"])))
        source, place = _origin(own, origins, plain_place(first["loc"]))
        raise explain(source, place, dict(first), Inventory, _TABLES) from None
    for place, wrong, word, valid in inventory.mistakes():
        source, line = _line(own, origins, place)
        expected = nearest(word, valid)
        raise mistake(source, line, f'{wrong} "{word}".{expected}')
    return Loaded(inventory, own.path, own.text, remarks)


def _merge(own: Source, fragments: list[Source]) -> tuple[dict[str, Any], dict[Place, tuple[Source, Place]]]:
    """The person's data with the fragments' additions, and for each added entry where it came from."""
    merged = dict(own.data)
    origins: dict[Place, tuple[Source, Place]] = {}
    for source in fragments:
        for key, value in source.data.items():
            if key == "joins":
                continue
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
    for source in fragments:
        _join(merged, source)
    return merged, origins


def _join(merged: dict[str, Any], source: Source) -> None:
    """Append what a file of cluster.d says under [joins] to lists that stand in the person's own file.

    `queue` names containers by node, for the end of its start order; `router` endpoints by task, where the person lists
    that task. What the person placed stays where it is.
    """
    try:
        joins = Joins.model_validate(source.data.get("joins", {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise explain(source, ("joins", *plain_place(first["loc"])), dict(first), Joining) from None
    nodes = merged.get("nodes", [])
    for i, node in enumerate(nodes) if joins.queue and isinstance(nodes, list) else ():
        names = joins.queue.get(str(node.get("name")), ()) if isinstance(node, dict) else ()
        queue = node.get("queue", {}) if names else {}
        if names and isinstance(queue, dict) and isinstance(queue.get("order", []), list):
            order = list(dict.fromkeys((*queue.get("order", []), *names)))
            nodes = [*nodes[:i], node | {"queue": queue | {"order": order}}, *nodes[i + 1 :]]
            merged["nodes"] = nodes
    router = merged.get("router", {})
    for task, endpoints in joins.router.items() if isinstance(router, dict) else ():
        if isinstance(router.get(task), list):
            merged["router"] = router = router | {task: list(dict.fromkeys((*router[task], *endpoints)))}


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


def _line(own: Source, origins: Mapping[Place, tuple[Source, Place]], place: Place) -> tuple[Source, int]:
    source, place = _origin(own, origins, place)
    return source, line_of(source.lines, place) or 1


def _origin(own: Source, origins: Mapping[Place, tuple[Source, Place]], place: Place) -> tuple[Source, Place]:
    """The file that a place of the merged data comes from, and where it stands there."""
    for length in (2, 1):
        if (origin := origins.get(place[:length])) is not None:
            source, start = origin
            return source, start + place[length:]
    return own, place
