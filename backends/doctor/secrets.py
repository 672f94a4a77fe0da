"""Whether every secret the inventory refers to can be had, without anybody being asked; values go nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from backends.cluster.inventory import Inventory
from backends.doctor.finding import Finding, bad, ok, warn
from backends.errors import SecretError
from backends.secrets import Secrets

ASKING: Final = ("prompt", "op")
"""Kinds that may ask a person, and are not tried here."""


@dataclass(slots=True)
class Use:
    """Who uses a reference, and who of them is polled and so can ask nobody."""

    users: list[str] = field(default_factory=list)
    polled: list[str] = field(default_factory=list)


def references(inventory: Inventory) -> dict[str, Use]:
    """Every reference to a secret, in the inventory's order."""
    found: dict[str, Use] = {}

    def note(reference: str | None, user: str, *, polled: bool) -> None:
        if reference is not None:
            use = found.setdefault(reference, Use())
            use.users.append(user)
            use.polled += [user] if polled else []

    for node in inventory.nodes:
        note(node.ssh.password if node.ssh else None, f"SSH to {node.name}", polled=True)
        note(node.wake.rdp.password if node.wake and node.wake.rdp else None, f"RDP to {node.name}", polled=False)
        note(node.sudo, f"sudo on {node.name}", polled=False)
    for endpoint in inventory.lamps:
        note(endpoint.api_key, endpoint.name, polled=True)
    for reference in inventory.alerts.to:
        note(reference, "alerts", polled=True)
    heartbeat = inventory.alerts.heartbeat
    if heartbeat is not None and not heartbeat.startswith(("http://", "https://")):
        note(heartbeat, "the heartbeat", polled=True)
    return found


async def check(reference: str, use: Use, secrets: Secrets) -> Finding:
    """Whether one reference resolves."""
    subject, users = f"secret {reference}", _listed(use.users)
    if reference.partition(":")[0] in ASKING:
        if use.polled:
            return warn(
                subject,
                f"may ask a person, and so is never had by what is polled: {_listed(use.polled)}",
                "For these use env:, keyring:, pass:, vault: or azure-kv:.",
            )
        return ok(subject, f"is asked for when it is needed; not tried now ({users})")
    try:
        await secrets.resolve(reference, polling=True)
    except SecretError as error:
        words = error.message.removeprefix(reference).lstrip(": ")
        return bad(subject, f"{words} It is for {users}.", error.advice)
    return ok(subject, f"can be had ({users})")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
