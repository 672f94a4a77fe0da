"""The whole examination: this machine, every secret and every node side by side, told in the inventory's order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from backends.cluster.files import Loaded, load
from backends.cluster.inventory import Inventory
from backends.doctor import here as own
from backends.doctor import secrets as references
from backends.doctor.drills import drills
from backends.doctor.finding import Finding, failed, ok, warn
from backends.doctor.here import Here
from backends.doctor.nodes import examine_node
from backends.errors import InventoryError
from backends.proven import Proven
from backends.reach.local import which_node
from backends.reach.reaches import Reaches
from backends.secrets import Secrets

SECRET_LIMIT: Final = 10.0
"""Seconds a vault gets; its dialog, if it opens one, is not waited for longer."""


async def examine(path: Path, here: Here, tell: Callable[[Finding], None]) -> bool:
    """Tell every finding as soon as those before it are told; whether the inventory can be used at all."""
    try:
        loaded = await asyncio.to_thread(load, path)
    except InventoryError as error:
        tell(failed("inventory", error))
        for finding in (own.versions(here), own.terminal(here), own.state_directory(here), await own.logind(here)):
            tell(finding)
        return False
    for finding in _known(loaded, here):
        tell(finding)
    inventory = loaded.inventory
    secrets = Secrets(environment=here.environment, limit=SECRET_LIMIT)
    us = which_node(inventory, here.hostname, here.addresses)
    async with Reaches(inventory, us, secrets) as reaches:
        checks: list[asyncio.Task[tuple[Finding, ...]]] = [asyncio.create_task(_one(own.logind(here)))]
        for reference, use in references.references(inventory).items():
            checks.append(asyncio.create_task(_one(references.check(reference, use, secrets))))
        for node in inventory.nodes:
            checks.append(asyncio.create_task(examine_node(node, inventory, reaches[node.name])))
        try:
            for check in checks:
                for finding in await check:
                    tell(finding)
        finally:
            for check in checks:
                check.cancel()
            await asyncio.gather(*checks, return_exceptions=True)
    return True


async def _one(check: Awaitable[Finding]) -> tuple[Finding, ...]:
    return (await check,)


def _known(loaded: Loaded, here: Here) -> list[Finding]:
    """What is known without asking anybody."""
    inventory = loaded.inventory
    found = [_inventory(loaded), *(warn("inventory", remark) for remark in loaded.remarks), _where(inventory, here)]
    found += [own.versions(here), own.terminal(here), own.state_directory(here), own.open_files(here, inventory)]
    found += own.desktops(here, inventory)
    us = which_node(inventory, here.hostname, here.addresses)
    found += drills(inventory, us, Proven(here.state).read(), time.time())
    return found


def _inventory(loaded: Loaded) -> Finding:
    inventory = loaded.inventory
    counts = f"{len(inventory.nodes)} nodes, {len(inventory.tiers)} tiers, {len(inventory.endpoints)} endpoints"
    if not inventory.endpoints:
        return warn("inventory", f"{loaded.path}: {counts}", "Add an [[endpoints]] for each engine.")
    return ok("inventory", f"{loaded.path}: {counts}")


def _where(inventory: Inventory, here: Here) -> Finding:
    us = which_node(inventory, here.hostname, here.addresses)
    if us is not None:
        return ok("this machine", f"is the node {us}")
    return ok("this machine", f"{here.hostname} is none of the nodes")
