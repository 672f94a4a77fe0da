"""Server-side apply for the API double, after the API's documents: who manages which field, and conflicts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from tests.kubernetes.store import Kind, Refused, Store, stamp

Path = tuple[str, ...]

KEYS = {
    "containers": ("name",), "initContainers": ("name",), "env": ("name",), "volumes": ("name",),
    "volumeMounts": ("mountPath",),
}  # fmt: skip
PORTS = {"Service": ("port", "protocol"), "": ("containerPort", "protocol")}
DEFAULTS: dict[str, dict[str, Any]] = {
    "Deployment": {"spec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600}},
    "Service": {"spec": {"type": "ClusterIP", "sessionAffinity": "None"}},
    "PersistentVolumeClaim": {"spec": {"volumeMode": "Filesystem"}},
}


def leaves(value: Any, kind: str, at: Path = ()) -> dict[Path, Any]:
    """Each field with its value; items of a list go by their keys, a list without keys is one field."""
    found: dict[Path, Any] = {}
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            found |= leaves(inner, kind, (*at, f"f:{key}"))
        return found
    last = at[-1][2:] if at else ""
    keys = (PORTS.get(kind) or PORTS[""]) if last == "ports" else KEYS.get(last)
    if keys and isinstance(value, list):
        for item in value:
            named = json.dumps({key: item.get(key) for key in keys}, sort_keys=True)
            found |= leaves(item, kind, (*at, f"k:{named}"))
        return found
    return {at: value}


def built(fields: Mapping[Path, Any]) -> dict[str, Any]:
    """The object with these fields."""
    root: dict[str, Any] = {}
    for path, value in fields.items():
        place = root
        for step in path[:-1]:
            place = place.setdefault(step, {})
        place[path[-1]] = copy.deepcopy(value)
    found: dict[str, Any] = _unfolded(root)
    return found


def _unfolded(place: Any) -> Any:
    if not isinstance(place, dict):
        return place
    if any(step.startswith("k:") for step in place):
        return [_unfolded(item) for item in place.values()]
    return {step[2:]: _unfolded(inner) for step, inner in place.items()}


def tree(paths: set[Path]) -> dict[str, Any]:
    """Paths as fieldsV1."""
    root: dict[str, Any] = {}
    for path in sorted(paths):
        place = root
        for step in path:
            place = place.setdefault(step, {".": {}} if step.startswith("k:") else {})
    return root


def paths(fields: Mapping[str, Any], at: Path = ()) -> set[Path]:
    """fieldsV1 as paths."""
    inner = {key: deeper for key, deeper in fields.items() if key != "."}
    if not inner:
        return {at} if at else set()
    return {path for key, deeper in inner.items() for path in paths(deeper, (*at, key))}


def managers(item: Mapping[str, Any]) -> dict[tuple[str, str, str], set[Path]]:
    """Who manages what: by manager, operation and subresource."""
    return {
        (entry["manager"], entry["operation"], entry.get("subresource", "")): paths(entry["fieldsV1"])
        for entry in item["metadata"].get("managedFields", [])
    }


def manage(item: dict[str, Any], owners: Mapping[tuple[str, str, str], set[Path]]) -> None:
    """Write down who manages what."""
    item["metadata"]["managedFields"] = [
        {"manager": manager, "operation": operation, "apiVersion": item["apiVersion"], "time": stamp(),
         "fieldsType": "FieldsV1", "fieldsV1": tree(owned), **({"subresource": sub} if sub else {})}
        for (manager, operation, sub), owned in owners.items() if owned
    ]  # fmt: skip


def _fields(item: Mapping[str, Any], kind: Kind) -> dict[Path, Any]:
    meta = {k: item["metadata"][k] for k in ("labels", "annotations") if k in item["metadata"]}
    told = {k: v for k, v in item.items() if k not in ("metadata", "status", "apiVersion", "kind")}
    return leaves(told | ({"metadata": meta} if meta else {}), kind.kind)


def updated(old: Mapping[str, Any] | None, new: dict[str, Any], kind: Kind, agent: str, sub: str = "") -> None:
    """After an update: what changed is managed by whoever did it."""
    before, after = _fields(old, kind) if old else {}, _fields(new, kind)
    owners = managers(old) if old else {}
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    gone = before.keys() - after.keys()
    owners = {who: owned - changed - gone for who, owned in owners.items()}
    mine = (agent, "Update", sub)
    owners[mine] = owners.get(mine, set()) | changed
    manage(new, owners)


def apply(
    store: Store, kind: Kind, namespace: str, body: dict[str, Any], query: Mapping[str, str]
) -> tuple[dict[str, Any], int]:
    """Apply an object, or answer what that would make of it; one that is so already keeps its version."""
    name, dry = body["metadata"]["name"], "dryRun" in query
    old = store.objects[kind.plural].get(f"{namespace}/{name}")
    made = _applied(copy.deepcopy(old), body, kind, query["fieldManager"], force=query.get("force") == "true")
    if old is not None:
        changed = _fields(made, kind) != _fields(old, kind)
        return (store.replace(kind, namespace, name, made) if changed and not dry else made), 200
    made["metadata"].setdefault("generation", 1)
    if kind.plural in ("deployments", "jobs"):
        made.setdefault("status", {})
    return store.create(kind, namespace, made, dry=dry), 201


def _applied(
    old: dict[str, Any] | None, body: dict[str, Any], kind: Kind, manager: str, *, force: bool
) -> dict[str, Any]:
    """What server-side apply makes of an object; Refused where another manages a field and has it otherwise."""
    wanted, mine = _fields(body, kind), (manager, "Apply", "")
    live = _fields(old, kind) if old else {}
    owners = managers(old) if old else {}
    others = {who: owned for who, owned in owners.items() if who != mine}
    clash = [(who, path) for path in wanted for who, owned in others.items()
             if path in owned and live.get(path) != wanted[path]]  # fmt: skip
    if clash and not force:
        raise _conflict(clash, kind)
    dropped = {p for p in owners.get(mine, set()) - wanted.keys() if not any(p in owned for owned in others.values())}
    merged = {path: value for path, value in live.items() if path not in dropped} | wanted
    made = built(merged)
    meta = {**(old["metadata"] if old else {}), "name": body["metadata"]["name"]}
    meta = {k: v for k, v in meta.items() if k not in ("labels", "annotations")} | made.pop("metadata", {})
    made = {**({"status": old["status"]} if old and "status" in old else {}), **made, "metadata": meta}
    made |= {"kind": kind.kind, "apiVersion": kind.api_version}
    _default(made, DEFAULTS.get(kind.kind, {}))
    manage(made, {**others, mine: set(wanted)})
    return made


def _default(item: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    for key, value in defaults.items():
        if isinstance(value, dict):
            _default(item.setdefault(key, {}), value)
        else:
            item.setdefault(key, value)


def _conflict(clash: list[tuple[tuple[str, str, str], Path]], kind: Kind) -> Refused:
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{who[0]}" using {kind.api_version}',
         "field": "".join(f".{s[2:]}" if s.startswith("f:") else f"[{s[2:]}]" for s in path)}
        for who, path in clash
    ]  # fmt: skip
    count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
    words = "; ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    return Refused(409, "Conflict", f"Apply failed with {count}: {words}", {"causes": causes})
