"""The gateway's page: its groups and who stands behind them, what is wrong with its file, what a push would change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backends.gateway.findings import Finding
from widgets.lines import Line, line

_STYLES = {"error": "bad", "warning": "warn", "note": "dim"}


@dataclass(frozen=True, slots=True)
class Group:
    """A group of the rendered file, and each endpoint behind it with whether it serves."""

    name: str
    behind: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class GatewayPage:
    """What the page shows; `trouble` is why the gateway's file could not be read."""

    endpoint: str
    place: str
    groups: tuple[Group, ...] = ()
    findings: tuple[Finding, ...] = ()
    changes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    trouble: str = ""


def gateway_lines(page: GatewayPage) -> list[Line]:
    """The page from top to bottom."""
    return [
        line((f"{page.endpoint}, {page.place or 'no file named in cluster.toml'}", "title")),
        *([line((page.trouble, "bad"))] if page.trouble else []),
        *_section("Groups", _groups(page)),
        *_section("Wrong with the gateway's file", _findings(page)),
        *_section("What runs otherwise than its file says", [line((each, "warn")) for each in page.unread]),
        *_section("A push would change", [line((each, _sign(each))) for each in page.changes]),
        *_section("Line by line", [line((each, _sign(each))) for each in page.diff[2:]]),
        *_section("To know", [line((each, "dim")) for each in page.remarks]),
    ]


def _section(title: str, rows: list[Line]) -> Iterator[Line]:
    if rows:
        yield line("")
        yield line((title, "title"))
        yield from rows


def _groups(page: GatewayPage) -> list[Line]:
    width = max((len(group.name) for group in page.groups), default=0)
    return [
        line(
            f"  {group.name:<{width}}  ",
            *((f"{name} ", "good") if serves else (f"{name} (down) ", "bad") for name, serves in group.behind),
        )
        for group in page.groups
    ]


def _findings(page: GatewayPage) -> list[Line]:
    rows = []
    for finding in page.findings:
        mendable = "  (lint --fix mends it)" if finding.fixable else ""
        rows.append(line((f"  line {finding.line}: {finding.what}{mendable}", _STYLES[finding.severity])))
        rows += [line((f"      {words}", "dim")) for words in (finding.why, finding.cure)]
    return rows


def _sign(row: str) -> str:
    return {"+": "good", "-": "bad", "~": "warn", "@": "accent"}.get(row[:1], "")
