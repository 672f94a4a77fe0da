"""What tells one boot of a machine from the next."""

from __future__ import annotations

from typing import Final

from backends.cluster.tables import Node
from backends.errors import ReachError
from backends.reach.runtime import Shell
from backends.reach.services_words import powershell

_SAME: Final = 30
"""Seconds by which the boot time that a system computes from its uptime may move without a boot."""

_MARKS: Final = {
    "linux": ["cat", "/proc/sys/kernel/random/boot_id"],
    "macos": ["sysctl", "-n", "kern.bootsessionuuid"],
}
_WINDOWS_MARK: Final = (
    "[DateTimeOffset]::new((Get-CimInstance Win32_OperatingSystem).LastBootUpTime).ToUnixTimeSeconds()"
)


async def boot_mark(node: Node, shell: Shell, timeout: float = 15.0) -> str:
    """What differs from boot to boot: an id, or on Windows the time; ReachError where the node cannot be asked."""
    argv = _MARKS.get(node.os) or powershell(_WINDOWS_MARK)
    try:
        done = await shell.run(argv, timeout=timeout)
    except TimeoutError:
        raise ReachError(f"{node.name} did not say within {timeout:g} s when it was booted.") from None
    mark = done.stdout.strip()
    if done.status or not mark:
        raise ReachError(f"{node.name} does not say when it was booted: {done.stderr.strip()[:200] or 'no words'}.")
    return mark


def is_same_boot(one: str, other: str) -> bool:
    """Whether two marks are of one boot."""
    if one.isdecimal() and other.isdecimal():
        return abs(int(one) - int(other)) <= _SAME
    return one == other
