"""What steps may ask of the outside, as callables, so that the same steps run against fakes, the demo and machines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backends.clock import Clock
from backends.cluster.inventory import Endpoint, Inventory
from backends.cluster.reading import Gpu, ProbeResult, Workload
from backends.reach.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Context:
    """The outside of a procedure; whoever opened it closes it.

    `runtime(node, kind)` drives what runs there (kind: docker, systemd, launchd, windows), `workloads(node)` lists it
    all; both may raise a ReachError. `probe(endpoint)` never raises. `vram(node)` is None where it cannot be read.
    """

    inventory: Inventory
    clock: Clock
    runtime: Callable[[str, str], Awaitable[Runtime]]
    workloads: Callable[[str], Awaitable[tuple[Workload, ...]]]
    probe: Callable[[str], Awaitable[ProbeResult]]
    vram: Callable[[str], Awaitable[tuple[Gpu, ...] | None]]


def title(workload: Workload) -> str:
    """A workload as cluster.toml names it: a container by its name, a service as systemd:NAME."""
    return workload.name if workload.runtime == "docker" else f"{workload.runtime}:{workload.name}"


def residence(endpoint: Endpoint) -> str:
    """The container or service an endpoint runs in, as cluster.toml names it; "" where it names none."""
    return endpoint.container or endpoint.service or ""


def endpoints_in(inventory: Inventory, node: str, workload: str) -> tuple[Endpoint, ...]:
    """The endpoints of `node` that run in the workload of that title."""
    return tuple(e for e in inventory.endpoints if e.node == node and workload and residence(e) == workload)
