"""What a new configuration would change, in groups and settings; and what runs without having read its file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from backends.gateway.document import data
from backends.text import plain

_SHOWN: Final = ("model", "api_base", "timeout", "stream_timeout")


def compare(old: str, new: str) -> list[str]:
    """The changes in words, groups first; GatewayError where one of them cannot be read."""
    before, after = data(old, "the configured file"), data(new, "the new one")
    return [*_groups(_deployments(before), _deployments(after)), *_settings(before, after)]


def unread(text: str, running: Iterable[str]) -> list[str]:
    """What the running gateway serves otherwise than its file says: it was not restarted since, or reads another."""
    told, named = set(_deployments(data(text, "the configured file"))), set(running)
    found = [f"{plain(name)}: in the file, but the running gateway does not serve it" for name in sorted(told - named)]
    if not any("*" in name for name in told):
        found += [f"{plain(name)}: served by the running gateway, but not in the file" for name in sorted(named - told)]
    return found


def _deployments(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each group with its deployments in words."""
    found: dict[str, list[str]] = {}
    listed = document.get("model_list")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict):
            params = each.get("litellm_params")
            words = [str(params[key]) for key in _SHOWN if key in params] if isinstance(params, dict) else []
            found.setdefault(str(each.get("model_name", "")), []).append(plain(" ".join(words)))
    return found


def _groups(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = sorted(before.get(name, [])), sorted(after.get(name, []))
        if old == new:
            continue
        shown = plain(name)
        if not old:
            yield f"+ {shown}: {', '.join(new)}"
        elif not new:
            yield f"- {shown}: {', '.join(old)}"
        else:
            yield f"~ {shown}: {', '.join(old)} -> {', '.join(new)}"


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for table in sorted((before.keys() | after.keys()) - {"model_list"}):
        old, new = _table(before.get(table)), _table(after.get(table))
        for key in sorted(old.keys() | new.keys()):
            name = plain(f"{table}.{key}".removesuffix("."))
            if old.get(key) != new.get(key):
                yield f"~ {name}: {_words(key, old)} -> {_words(key, new)}"


def _table(value: Any) -> dict[str, Any]:
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else {"": value}


def _words(key: str, table: Mapping[str, Any]) -> str:
    if key not in table:
        return "not said"
    value = table[key]
    secret = isinstance(value, str) and not value.startswith("os.environ/") and ("key" in key or "pass" in key)
    return "***" if secret else plain(str(value))
