"""Fallbacks that lead nowhere or round in circles, cool-downs that never fire, health checks that come too late.

Read in LiteLLM 1.106: `_is_allowed_fails_set_on_router` takes a number equal to the module's own for not set (3, or
what litellm_settings makes it), and by default a group of one is not cooled down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from backends.gateway.document import Document, blank, items, keys, line, number, said, truth
from backends.gateway.findings import Finding
from backends.text import plain

DEFAULT_FAILS: Final = 3
DEFAULT_COOLDOWN: Final = 5
DEFAULT_INTERVAL: Final = 300
"""LiteLLM's own values."""

_LISTS: Final = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


def limits(document: Document) -> Iterator[Finding]:
    """All of these in one configuration."""
    yield from _targets(document)
    yield from _loops(document)
    yield from _cooldowns(document)
    yield from _health(document)


def chains(document: Document, kind: str) -> Iterator[tuple[Node, Node]]:
    """Each group and its list of fallbacks of one kind."""
    for table in ("router_settings", "litellm_settings"):
        for each in items(document.table(table).get(kind)):
            if isinstance(each, MappingNode):
                yield from ((name, value) for name, value in each.value)


def _targets(document: Document) -> Iterator[Finding]:
    aliases = keys(document.table("router_settings").get("model_group_alias"))
    names = [*{entry.group: None for entry in document.entries}, *aliases]
    sees_all = "include" not in document.tables and not truth(document.scalar("general_settings", "store_model_in_db"))
    for kind in _LISTS:
        yield from _shapes(document, kind)
        for source, targets in chains(document, kind):
            if said(source) != "*" and sees_all:
                yield from _unknown(source, f"{kind} of", names)
            for target in items(targets):
                if sees_all:
                    yield from _unknown(target, f"{kind} of {plain(said(source))}:", names)
                if said(target) == said(source):
                    yield Finding(
                        "fallback-to-itself", "warning", line(target), f"{plain(said(source))} falls back to itself.",
                        "A request that failed is sent once more to what just failed.", "Remove it from its own list.",
                    )  # fmt: skip
    for table in ("router_settings", "litellm_settings"):
        for target in items(document.table(table).get("default_fallbacks")) if sees_all else ():
            yield from _unknown(target, "default_fallbacks:", names)


def _shapes(document: Document, kind: str) -> Iterator[Finding]:
    for table in ("router_settings", "litellm_settings"):
        node = document.table(table).get(kind)
        whole = isinstance(node, SequenceNode) and all(
            isinstance(each, MappingNode) and all(isinstance(value, SequenceNode) for _, value in each.value)
            for each in node.value
        )
        if not (node is None or whole or blank(node)):
            yield Finding(
                "fallback-shape", "error", line(node), f"{kind} is not a list of groups with their lists.",
                "LiteLLM does not start with it, or never falls back.", f'{kind}: [{{"GROUP": ["OTHER"]}}]',
            )  # fmt: skip


def _unknown(node: Node, where: str, names: list[str]) -> Iterator[Finding]:
    name = said(node)
    if not name or name in names or any("*" in known and fnmatchcase(name, known) for known in names):
        return
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    yield Finding(
        "unknown-group", "error", line(node), f"{where} {plain(name)}: there is no such group.",
        "The fallback fails, too, when it is needed.",
        f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(names[:8])}.",
    )  # fmt: skip


def _loops(document: Document) -> Iterator[Finding]:
    ways = {said(source): [said(t) for t in items(targets)] for source, targets in chains(document, "fallbacks")}
    lines = {said(source): line(source) for source, _ in chains(document, "fallbacks")}
    told: set[frozenset[str]] = set()
    for start in ways:
        path = _circle(start, ways)
        if path and frozenset(path) not in told:
            told.add(frozenset(path))
            yield Finding(
                "fallback-loop", "warning", lines[start], f"Fallbacks go round: {' -> '.join(map(plain, path))}.",
                "When all of them fail, a request is sent to each again and again before it is refused.",
                "Let the last of them fall back to nothing.",
            )  # fmt: skip


def _circle(start: str, ways: dict[str, list[str]]) -> list[str]:
    """The way from a group back to itself, over at least one other; empty where there is none."""
    waiting, seen = [[start, each] for each in ways[start] if each != start], {start}
    while waiting:
        path = waiting.pop()
        for each in ways.get(path[-1], ()):
            if each == start:
                return [*path, start]
            if each not in seen:
                seen.add(each)
                waiting.append([*path, each])
    return []


def _cooldowns(document: Document) -> Iterator[Finding]:
    yield from _turned_off(document)
    router = document.table("router_settings")
    misplaced = document.scalar("litellm_settings", "allowed_fails")
    allowed = document.scalar("router_settings", "allowed_fails")
    singles = _singles(document)
    if misplaced is not None and number(misplaced) is not None:
        count = number(allowed if allowed is not None else misplaced) or 0
        told = f"allowed_fails: {2 if count == DEFAULT_FAILS else count:g}"
        yield Finding(
            "cooldown-never", "error", line(misplaced), "allowed_fails under litellm_settings is never heeded.",
            "LiteLLM takes it for its own default, and a number that equals the default for not set.",
            f"Under router_settings: {told}",
            document.without(misplaced) + (document.inserted("router_settings", told) if allowed is None else ()),
        )  # fmt: skip
    elif allowed is not None and number(allowed) == DEFAULT_FAILS and "allowed_fails_policy" not in router:
        yield Finding(
            "cooldown-never", "error", line(allowed), "allowed_fails: 3 is never heeded.",
            "It equals LiteLLM's own default, which counts as not set: a group of one is then never cooled down.",
            "Any other number works: allowed_fails: 2", document.replaced(allowed, "2"),
        )  # fmt: skip
    elif allowed is None and "allowed_fails_policy" not in router and singles:
        yield Finding(
            "cooldown-never", "warning", line(document.tables.get("router_settings")),
            f"Groups of one that have fallbacks are never cooled down: {', '.join(map(plain, singles[:6]))}.",
            "Without allowed_fails each request is sent to what is dead first, with all its retries.",
            "Under router_settings: allowed_fails: 1", document.inserted("router_settings", "allowed_fails: 1"),
        )  # fmt: skip


def _singles(document: Document) -> list[str]:
    """The groups of one deployment that have fallbacks."""
    count = Counter(entry.group for entry in document.entries)
    sources = {said(source) for source, _ in chains(document, "fallbacks")}
    return [group for group, deployments in count.items() if deployments == 1 and sources & {group, "*"}]


def _turned_off(document: Document) -> Iterator[Finding]:
    off = document.scalar("router_settings", "disable_cooldowns")
    cooldown = document.scalar("router_settings", "cooldown_time")
    elsewhere = document.scalar("litellm_settings", "cooldown_time")
    why = "What is dead is asked again by every request."
    if truth(off):
        yield Finding("cooldown-off", "warning", line(off), "disable_cooldowns is true.", why, "Remove it.")
    if cooldown is not None and number(cooldown) == 0:
        yield Finding(
            "cooldown-off", "warning", line(cooldown), "cooldown_time: 0 is LiteLLM's default of 5 s.",
            "LiteLLM takes 0 for not set.", "cooldown_time: 60, or disable_cooldowns: true if that is meant.",
        )  # fmt: skip
    if elsewhere is not None:
        yield Finding(
            "cooldown-never", "warning", line(elsewhere), "cooldown_time under litellm_settings is never read.",
            "Five seconds are what counts.", "Move it under router_settings.",
        )  # fmt: skip
    for entry in document.entries:
        single = sum(each.group == entry.group for each in document.entries) == 1
        told = entry.info.get("allowed_fails")
        if single and isinstance(told, ScalarNode) and "allowed_fails_policy" not in entry.info:
            yield Finding(
                "cooldown-never", "warning", line(told),
                f"{plain(entry.group)}: allowed_fails of a deployment that is alone in its group is never heeded.",
                "LiteLLM cools it down only by allowed_fails of router_settings, or by a policy of its own.",
                "Say it under router_settings, or as allowed_fails_policy here.",
            )  # fmt: skip


def _health(document: Document) -> Iterator[Finding]:
    for key in ("health_check_interval", "background_health_checks"):
        if (misplaced := document.scalar("router_settings", key)) is not None:
            yield Finding(
                "misplaced", "error", line(misplaced), f"{key} does not belong under router_settings.",
                "LiteLLM refuses to start, or ignores it.", "Move it under general_settings.",
            )  # fmt: skip
    if not truth(document.scalar("general_settings", "background_health_checks")):
        return
    told, cooldown = (
        document.scalar("general_settings", "health_check_interval"),
        document.scalar("router_settings", "cooldown_time"),
    )
    every = number(told) or DEFAULT_INTERVAL
    lasts = number(cooldown) or DEFAULT_COOLDOWN
    if every >= lasts:
        checks = told if told is not None else document.tables.get("general_settings")
        yield Finding(
            "health-check-late", "warning", line(checks),
            f"A health check every {every:g} s, and a cool-down of {lasts:g} s.",
            "What a check found dead is asked again by requests long before the next check.",
            "cooldown_time must be the longer of the two, twice as long is well.",
        )  # fmt: skip
