"""`tierdeck fit --learned` and `--forget`: what was learned of memory by looking on, for people and scripts."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict

from backends.figures import Figures
from backends.memory.spoken import Buffers
from backends.paths import state_dir
from backends.text import plain

SCHEMA = "tierdeck.learned/1"


def run(arguments: argparse.Namespace) -> int:
    """List it, or forget it, of one node or of all."""
    figures = Figures(state_dir(os.environ))
    if arguments.forget:
        gone = figures.forget(arguments.node)
        print(f"forgot {gone} figures" if gone != 1 else "forgot 1 figure")
        return 0
    figures.refresh()
    if getattr(arguments, "json", False):
        told = {
            "schema": SCHEMA,
            "overheads": _overheads(figures, arguments.node),
            "observed": _said(figures, arguments.node),
        }
        print(json.dumps(told, ensure_ascii=False))
    else:
        print("\n".join(_rows(figures, arguments.node)))
    return 0


def _overheads(figures: Figures, node: str | None) -> list[dict[str, object]]:
    found = [each for each in figures.overheads if node in (None, each.node)]
    return [asdict(each) | {"mib": each.mib, "starts": len(each.starts)} for each in found]


def _said(figures: Figures, node: str | None) -> list[dict[str, object]]:
    return [
        {"node": each.node, "container": each.container, "file": each.file, **asdict(each.said)}
        for each in figures.observations
        if each.said and node in (None, each.node)
    ]


def _rows(figures: Figures, node: str | None) -> Iterator[str]:
    overheads = [each for each in figures.overheads if node in (None, each.node)]
    said = [each for each in figures.observations if each.said and node in (None, each.node)]
    if not overheads and not said:
        yield "nothing was learned yet: it is while the console or `tierdeck watch` looks on as an engine starts"
        return
    if overheads:
        yield "What drivers keep beside each process:"
    for each in overheads:
        starts = "1 start" if len(each.starts) == 1 else f"{len(each.starts)} starts"
        words = filter(None, map(plain, (each.node, each.gpu, each.backend, each.build)))
        yield f"  {'  '.join(words)}  {each.mib:.0f} MiB ({starts})"
    if said:
        yield "What engines said when they started:"
    for one in said:
        file = one.file.rsplit("/", 1)[-1] if one.file else ""
        yield f"  {'  '.join(filter(None, map(plain, (one.node, one.container, file))))}"
        for buffers in one.said.buffers if one.said else ():
            yield f"    {_figures(buffers)}"


def _figures(each: Buffers) -> str:
    return f"{plain(each.name):<11} weights {each.weights:>9.2f}  kv {each.kv:>9.2f}  compute {each.compute:>9.2f}  MiB"
