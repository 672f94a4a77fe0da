"""What steps may ask of the outside, as callables, so that the same steps run against fakes, the demo and machines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backends.clock import Clock
from backends.cluster.inventory import Endpoint, Inventory
from backends.cluster.reading import Gpu, ProbeResult
from backends.reach.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Context:
    """The outside of a procedure.

    `runtime(node)` and `probe(endpoint)` take names; both may raise a ReachError. `vram(node)` is None where GPU memory
    cannot be read. A context opened for real belongs to whoever opened it, who also closes it.
    """

    inventory: Inventory
    clock: Clock
    runtime: Callable[[str], Awaitable[Runtime]]
    probe: Callable[[str], Awaitable[ProbeResult]]
    vram: Callable[[str], Awaitable[tuple[Gpu, ...] | None]]


def workload_name(endpoint: Endpoint) -> str:
    """The container or native service an endpoint runs in, as its node's runtime calls it; "" where none is named."""
    return endpoint.container or (endpoint.service or "").partition(":")[2]


def endpoints_in(inventory: Inventory, node: str, workload: str) -> tuple[Endpoint, ...]:
    """The endpoints that run in `workload` of `node`."""
    return tuple(e for e in inventory.endpoints if e.node == node and workload and workload_name(e) == workload)
