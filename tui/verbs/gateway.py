"""`tierdeck gateway`: LiteLLM's configuration rendered, checked, compared and pushed."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.errors import GatewayError
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backends.cluster.reading import ModelInfo
    from backends.cluster.snapshot import ClusterSnapshot
    from backends.gateway.findings import Finding
    from backends.gateway.render import Rendered

    Served = Mapping[str, Sequence[ModelInfo]]

RENDER_SCHEMA: Final = "tierdeck.gateway-render/1"
DIFF_SCHEMA: Final = "tierdeck.gateway-diff/1"
LINT_SCHEMA: Final = "tierdeck.gateway-lint/1"

MOST: Final = 4 << 20
"""Bytes of a configuration."""


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked for."""
    opened = open_cluster(arguments)
    return {"render": _render, "lint": _lint, "diff": _diff, "push": _push}[arguments.what](opened, arguments)


def _diff(opened: Opened, arguments: argparse.Namespace) -> int:
    """Compare the gateway's file with what would be rendered, and with what it serves; 1 where they differ."""
    from backends.gateway.compare import compare, unread
    from backends.gateway.document import difference
    from backends.gateway.lint import masked
    from backends.gateway.render import gateway_endpoint, render

    snapshot, served = look(opened)
    inventory = opened.loaded.inventory
    rendered = render(inventory, served)
    former = _former_text(asyncio.run(former_of(opened)))
    running = snapshot.endpoints[gateway_endpoint(inventory).name].models
    changes = compare(former, rendered.text) if former else [f"+ {group}" for group in rendered.groups]
    stale = unread(former, [model.name for model in running]) if running and former else []
    shown = difference(masked(former), masked(rendered.text), "the gateway's file", "rendered")
    if getattr(arguments, "json", False):
        told = {
            "schema": DIFF_SCHEMA, "same": former == rendered.text, "changes": changes, "not_read": stale, "diff": shown
        }  # fmt: skip
        print(json.dumps(told, ensure_ascii=False))
    else:
        blank = [""] if changes and shown else []
        print("\n".join([*changes, *stale, *blank, *shown] or ["The gateway's file is what would be rendered."]))
        tell_remarks(rendered)
    return 0 if former == rendered.text else 1


async def former_of(opened: Opened) -> bytes | None:
    """What the gateway's file holds now."""
    from backends.procedures.pushing import gateway_file
    from tui.verbs.boot import reached

    async with reached(opened) as outside:
        file = await gateway_file(opened.loaded.inventory, opened.here, outside.shell, outside.runtime)
        return await file.read()


def _former_text(former: bytes | None) -> str:
    return (former or b"").decode("utf-8", "replace")


def _push(opened: Opened, arguments: argparse.Namespace) -> int:
    """Plan it, show what it changes, and carry it out if that is confirmed."""
    from backends.gateway.document import difference
    from backends.gateway.lint import masked
    from backends.gateway.render import render
    from backends.procedures.pushing import plan_push
    from tui.verbs.carrying import carry_out

    snapshot, served = look(opened)
    inventory = opened.loaded.inventory
    rendered = None if arguments.file else render(inventory, served)
    text = rendered.text if rendered else _read(Path(arguments.file))
    former = asyncio.run(former_of(opened))
    if former == text.encode():
        print("tierdeck: the gateway's file is this one already; nothing is to be done.", file=sys.stderr)
        return 0
    remarks, name = (rendered.remarks, "what is rendered") if rendered else ((), Path(arguments.file).name)
    plan = plan_push(inventory, snapshot, text, former, remarks, name=name)
    shown = difference(masked(_former_text(former)), masked(text), "the gateway's file", "the new one")
    print("\n".join(shown), file=sys.stderr)
    return asyncio.run(carry_out(plan, opened, arguments))


def look(opened: Opened) -> tuple[ClusterSnapshot, Served]:
    """One look at everything, and the models that each endpoint names; nothing is loaded for it."""
    from backends.world import survey

    snapshot = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir))
    return snapshot, {name: state.models for name, state in snapshot.endpoints.items()}


def _render(opened: Opened, arguments: argparse.Namespace) -> int:
    from backends.gateway.render import render

    _, served = look(opened)
    rendered = render(opened.loaded.inventory, served)
    if arguments.output:
        _write(Path(arguments.output), rendered.text)
    if getattr(arguments, "json", False):
        told = {
            "schema": RENDER_SCHEMA,
            "text": rendered.text,
            "groups": list(rendered.groups),
            "remarks": list(rendered.remarks),
            "variables": dict(rendered.variables),
        }
        print(json.dumps(told, ensure_ascii=False))
        return 0
    if not arguments.output:
        print(rendered.text, end="")
    tell_remarks(rendered)
    return 0


def tell_remarks(rendered: Rendered) -> None:
    """What a person should know of a rendered file, on standard error."""
    for remark in rendered.remarks:
        print(f"tierdeck: {remark}", file=sys.stderr)


def _lint(opened: Opened, arguments: argparse.Namespace) -> int:
    """Tell the findings; 1 where some are left that are more than notes."""
    from backends.gateway.document import difference
    from backends.gateway.lint import lint, masked, mended

    path = Path(arguments.file)
    text = _read(path)
    _, served = look(opened)
    inventory = opened.loaded.inventory
    findings = lint(text, inventory, served, name=path.name)
    fixed = mended(text, findings, path.name) if arguments.fix else text
    shown = difference(masked(text), masked(fixed), path.name, f"{path.name}, mended")
    writes = arguments.fix and arguments.yes and fixed != text
    if writes:
        _write(path, fixed)
    left = lint(fixed, inventory, served, name=path.name) if writes else findings
    if getattr(arguments, "json", False):
        told = {
            "schema": LINT_SCHEMA, "file": str(path), "findings": [f.to_json() for f in findings], "diff": shown,
            "written": writes,
        }  # fmt: skip
        print(json.dumps(told, ensure_ascii=False))
    else:
        print(
            "\n".join([*(row for f in findings for row in finding_lines(path.name, f)), *shown] or [f"{path}: good."])
        )
        _tell_fix(path, findings, arguments, fixed=fixed != text)
    return 1 if any(finding.severity != "note" for finding in left) else 0


def _tell_fix(path: Path, findings: Sequence[Finding], arguments: argparse.Namespace, *, fixed: bool) -> None:
    count = sum(finding.fixable for finding in findings)
    if fixed:
        words = f"{path} is mended." if arguments.yes else "Nothing is written yet: say --yes, too."
        print(f"tierdeck: {words}", file=sys.stderr)
    elif count:
        print(f"tierdeck: {count} of {len(findings)} can be mended safely: --fix shows how.", file=sys.stderr)


def finding_lines(name: str, finding: Finding) -> list[str]:
    """A finding for people: where and what, why it matters, what to do."""
    return [f"{name}:{finding.line}: {finding.severity}: {finding.what}", f"    {finding.why}", f"    {finding.cure}"]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise GatewayError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(content) > MOST:
        raise GatewayError(f"{path} has more than {MOST >> 20} MiB: this is no configuration of LiteLLM.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GatewayError(f"{path} is no text: byte {error.start} is not UTF-8.") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_bytes(text.encode())
    except OSError as error:
        raise GatewayError(f"{path} cannot be written: {error.strerror or error}.", "Name another file.") from None
