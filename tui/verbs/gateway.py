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
    from backends.cluster.snapshot import ClusterSnapshot
    from backends.gateway.render import Rendered

RENDER_SCHEMA: Final = "tierdeck.gateway-render/1"


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked for."""
    opened = open_cluster(arguments)
    return _render(opened, arguments)


def rendered_now(opened: Opened) -> tuple[Rendered, ClusterSnapshot]:
    """The configuration for the models that are served now, and what was seen; nothing is loaded for it."""
    from backends.gateway.render import render
    from backends.world import survey

    snapshot = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir))
    served = {name: state.models for name, state in snapshot.endpoints.items()}
    return render(opened.loaded.inventory, served), snapshot


def _render(opened: Opened, arguments: argparse.Namespace) -> int:
    rendered, _ = rendered_now(opened)
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


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GatewayError(f"{path} cannot be written: {error.strerror or error}.", "Name another file.") from None
