"""What a machine runs on: boot time, kernel, GPU driver and Docker version, for "what changed since it last worked"."""

from __future__ import annotations

import re
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Facts
from backends.cluster.tables import Node
from backends.errors import CommandError, RuntimeFailure
from backends.reach.nodes import NodeReach
from backends.reach.services_words import powershell
from backends.text import plain

_LINUX: Final = (
    "grep", "-sH", "", "/proc/stat", "/proc/sys/kernel/osrelease", "/proc/driver/nvidia/version",
    "/sys/module/amdgpu/version",
)  # fmt: skip
_MACOS: Final = ("sysctl", "kern.boottime", "kern.osrelease")
_WINDOWS: Final = (
    "$o=Get-CimInstance Win32_OperatingSystem;"
    "'btime '+[DateTimeOffset]::new($o.LastBootUpTime).ToUnixTimeSeconds();'osrelease:'+$o.Version;"
    "(Get-CimInstance Win32_VideoController|ForEach-Object{'video:'+$_.DriverVersion})"
)

_BOOTED: Final = re.compile(r"\bbtime (\d{9,11})\b|boottime: \{ sec = (\d{9,11})")
_KERNEL: Final = re.compile(r"osrelease: ?(\S+)")
_DRIVER: Final = re.compile(
    r"NVRM version:.{0,200}?\s(\d+\.\d+(?:\.\d+)*)|amdgpu/version:(\S+)|^video:(\S+)", re.MULTILINE
)


async def read_facts(node: Node, inventory: Inventory, reach: NodeReach, *, timeout: float) -> Facts:
    """The facts of a node; SshError where it is not reached, None for what it does not tell."""
    argv = {"linux": _LINUX, "macos": _MACOS}.get(node.os) or powershell(_WINDOWS)
    try:
        said = (await reach.shell.run(argv, timeout=timeout)).stdout
    except CommandError:  # a system without that program; the rest may still be told
        said = ""
    docker = None
    if inventory.runs_containers(node):
        try:
            docker = plain(await (await reach.runtime()).version(), 40) or None
        except RuntimeFailure:  # said beside its containers already
            docker = None
    return parsed(said, docker)


def parsed(said: str, docker: str | None = None) -> Facts:
    """The facts in what a node said."""
    booted = _first(_BOOTED, said)
    return Facts(float(booted) if booted else None, _first(_KERNEL, said), _first(_DRIVER, said), docker)


def _first(pattern: re.Pattern[str], said: str) -> str | None:
    match = pattern.search(said)
    return plain(next(group for group in match.groups() if group), 80) if match else None
