"""What only Windows is asked. Pure."""

from __future__ import annotations

from typing import Final

from backends.text import plain

LOGGED_IN: Final = (
    "Get-CimInstance Win32_Process -Filter \"Name='explorer.exe'\" | "
    "ForEach-Object { (Invoke-CimMethod -InputObject $_ -MethodName GetOwner).User } | Sort-Object -Unique"
)
"""PowerShell that prints whoever has a desktop: quser is missing on Windows Home, and translated elsewhere."""


def desktop_users(said: str) -> tuple[str, ...]:
    """Who has a desktop, from what LOGGED_IN printed."""
    return tuple(plain(user, 80) for line in said.splitlines() if (user := line.strip()))[:10]
