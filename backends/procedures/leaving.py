"""Plans how a node that will be away leaves the gateway's file and comes back into it (see away.py for the steps)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import GatewayError, ProcedureError, TierdeckError
from backends.gateway.without import MARK, Without, without
from backends.procedures.away import Leaving, decoded
from backends.procedures.context import residence
from backends.procedures.gateway import READY_LIMIT, Push, digest
from backends.procedures.plan import Danger, Step
from backends.procedures.pushing import keep_step, place_of, restart_call, runs_in
from backends.reach.whole_file import KEPT

_LIMIT: Final = 2 * READY_LIMIT + 120.0
"""Seconds for a restart, and for another with the former file where the first fails."""


async def prepare_leaving(
    inventory: Inventory, snapshot: ClusterSnapshot, node: str, mark: str, read: Callable[[], Awaitable[bytes | None]]
) -> Leaving:
    """How `node`, booted at `mark`, leaves the gateway, whose file is `read`; no steps, and why, where it cannot.

    ProcedureError where a node is out of that file already.
    """
    gateway = inventory.gateway_endpoint
    fronts = [e.name for e in inventory.endpoints if e.engine == "litellm" and e.node != node]
    if gateway is None:
        return Leaving(remarks=tuple(_stay(fronts, node)) or (f"cluster.toml names no gateway to take {node} out of.",))
    rest = tuple(_stay((name for name in fronts if name != gateway.name), node))
    if gateway.node == node:
        return Leaving(remarks=(f"{gateway.name} runs on {node}: it is away with it, its file stays as it is.", *rest))
    try:
        former = await read()
        if former is None:
            raise GatewayError(f"There is no {place_of(inventory)}.")
        text = decoded(former, place_of(inventory))
        short = text.startswith(MARK)
        left = None if short else without(text, inventory, node, place_of(inventory))
        found = None if left is None else _steps(inventory, snapshot, gateway, node, mark, former, left)
    except TierdeckError as error:
        return Leaving(remarks=(*_stay(fronts, node), f"It cannot be taken out: {error}"))
    if short:
        raise ProcedureError(
            f"{gateway.name} is without a node already: a reboot is under way, or was broken off.",
            f"Wait, or resume it (tierdeck procedures); or put {place_of(inventory)}{KEPT} back by hand.",
        )
    if found is None:
        return Leaving(remarks=(f"{gateway.name} leads nowhere on {node}; its file stays as it is.", *rest))
    return replace(found, remarks=(*found.remarks, *rest))


def _stay(fronts: Iterable[str], node: str) -> Iterable[str]:
    if names := ", ".join(fronts):
        yield f"{names} goes on sending requests to {node} until it sees that nobody answers."


def _steps(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    gateway: Endpoint,
    node: str,
    mark: str,
    former: bytes,
    left: Without,
) -> Leaving:
    place, serving = place_of(inventory), snapshot.endpoints[gateway.name].serving
    new = digest(left.text.encode())
    told = Push(gateway.node or "", gateway.name, place, digest(former), new, *runs_in(gateway))
    arguments = told.to_json() | {"away": node, "mark": mark}
    danger = Danger.INTERRUPTS if serving else Danger.CHANGES
    restart, groups = restart_call(told), ", ".join(left.groups)
    out = Step(
        "leave_gateway", f"take {node} out of {gateway.name}: {groups}", dict(arguments), _LIMIT, danger,
        f"replace {place} whole, without {node}; {restart}",
    )  # fmt: skip
    back = Step(
        "rejoin_gateway", f"put {node} back into {gateway.name}, however this ends", dict(arguments), _LIMIT, danger,
        f"{place}{KEPT} becomes {place} again; {restart}", always=True,
    )  # fmt: skip
    remarks = [f"{residence(gateway)} is restarted twice, and answers nobody while it starts."]
    remarks += [f"{gateway.name} meanwhile answers {group} by {other}." for group, other in left.stand_ins.items()]
    if left.unserved:
        remarks.append(f"Through {gateway.name} nobody serves {', '.join(left.unserved)} meanwhile.")
    interrupts = (f"every request that {gateway.name} is answering when it restarts",) if serving else ()
    return Leaving((keep_step(told), out), (back,), interrupts, tuple(remarks))
