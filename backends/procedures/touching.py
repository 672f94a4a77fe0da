"""How the rungs of the recovery ladder really touch a machine: ports, packets, desktop sessions, secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from backends.cluster.inventory import Inventory
from backends.errors import ReachError, SshError
from backends.reach.knock import knock
from backends.reach.rdp import desktop
from backends.reach.reaches import Reaches
from backends.reach.services_words import powershell
from backends.reach.wake import send_from, send_here
from backends.reach.windows import LOGGED_IN, desktop_users
from backends.secrets import Secrets

COMMAND_LIMIT: Final = 60.0
"""Seconds for the inventory's own command that wakes a node."""

KUBELET: Final = 10250
"""The port of a kubelet's API."""

ASK_LIMIT: Final = 15.0
"""Seconds for the question who is logged in."""


class Touching:
    """Touches the nodes of an inventory; `pins` is a folder of ours for the certificates of their desktops."""

    def __init__(self, inventory: Inventory, reaches: Reaches, secrets: Secrets, pins: Path) -> None:
        self._inventory, self._reaches, self._secrets, self._pins = inventory, reaches, secrets, pins

    async def alive(self, node: str) -> str:
        """Which of its ports answers, in words; "" where none does."""
        named = self._inventory.node_named[node]
        ports = [named.ssh.port] if named.ssh else []
        ports += [named.wake.rdp.port] if named.wake and named.wake.rdp else []
        ports += [KUBELET] if named.kubernetes else []
        answers = await asyncio.gather(*(knock(named.address, port) for port in ports))
        return next((answer.words for answer in answers if answer.kind == "open"), "")

    async def secret(self, reference: str) -> SecretStr:
        """A secret, resolved at this moment."""
        return await self._secrets.resolve(reference, polling=False)

    async def wake(self, node: str) -> str:
        """Send whatever wakes it: the inventory's command, else a packet, from here or from a node of its LAN."""
        named = self._inventory.node_named[node]
        wake = named.wake
        via = self._reaches[wake.via] if wake and wake.via else None
        if wake and wake.command:
            shell = (via or self._reaches.here).shell
            done = await shell.run(["sh", "-c", wake.command], timeout=COMMAND_LIMIT)
            if done.status:
                raise ReachError(f"{wake.command} failed: {done.stderr.strip()[:200] or done.status}")
            return f"{wake.command}: done"
        if not (wake and wake.mac):
            raise ReachError(f"cluster.toml names no way to wake {node}.", 'wake = { mac = "..." }')
        if via is not None and not via.is_here:
            tool = await send_from(via.shell, wake.mac, named.address, os=via.node.os)
            return f"Wake-on-LAN packet sent by {wake.via} ({tool})"
        sent = await send_here(wake.mac, address=named.address)
        return f"Wake-on-LAN packet sent to {', '.join(sent)}"

    async def logged_in(self, node: str) -> tuple[str, ...] | None:
        """Who has a desktop session there; None where that cannot be asked."""
        reach = self._reaches[node]
        if reach.node.os != "windows" or reach.node.ssh is None:
            return None
        try:
            done = await reach.shell.run(powershell(LOGGED_IN), timeout=ASK_LIMIT)
        except (SshError, TimeoutError):
            return None
        return desktop_users(done.stdout) if done.status == 0 else None

    @asynccontextmanager
    async def desktop(self, node: str) -> AsyncGenerator[Callable[[], None], None]:
        """A desktop session as long as it is held; what is yielded raises a ReachError once it is over."""
        named = self._inventory.node_named[node]
        if named.wake is None or named.wake.rdp is None:
            raise ReachError(f"cluster.toml names no desktop login of {node}.", "wake = { rdp = { user, password } }")
        login = named.wake.rdp
        password = await self.secret(login.password)
        async with desktop(named.address, login, password, pins=self._pins) as session:
            yield session.check
