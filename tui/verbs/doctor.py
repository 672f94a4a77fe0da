"""`tierdeck doctor`: checks keys, SSH, Docker, drivers and clocks, and says what to do; changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from tui.arguments import USAGE

if TYPE_CHECKING:
    from backends.doctor.finding import Finding
    from backends.doctor.here import Here

SCHEMA: Final = "tierdeck.doctor/1"

SHAPES: Final = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}


def run(arguments: argparse.Namespace) -> int:
    """Examine and print; exit 0 when nothing is bad, 1 otherwise, 2 where the inventory cannot be used."""
    from backends.doctor.here import this_machine
    from tui.version import __version__

    return check(arguments, this_machine(__version__, sys.stdout.encoding or "", os.environ))


def check(arguments: argparse.Namespace, here: Here) -> int:
    """`run` with this machine passed in."""
    from backends.doctor.examine import examine
    from tui.verbs.opening import cluster_path

    as_json = getattr(arguments, "json", False)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            print("\n".join(lines(finding)), flush=True)

    usable = asyncio.run(examine(cluster_path(arguments), here, tell))
    if as_json:
        table = {"schema": SCHEMA, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(table, ensure_ascii=False))
    if not usable:
        return USAGE
    return int(any(finding.state == "bad" for finding in findings))


def lines(finding: Finding) -> list[str]:
    """A finding for a person: its shape, what it is, and beneath it what to do."""
    told = f"{SHAPES[finding.state]}  {finding.subject}: {finding.text}"
    return [told, f"      {finding.advice}"] if finding.advice else [told]
