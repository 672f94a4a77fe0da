"""What changed since it last worked, between two recorded moments. Pure."""

from __future__ import annotations

from backends.cluster.compare import Difference, well_of
from backends.cluster.compare import differences as between
from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot

__all__ = ["Difference", "differences"]


def differences(inventory: Inventory, then: ClusterSnapshot, now: ClusterSnapshot, name: str) -> list[Difference]:
    """What is not as it was about the endpoint `name`, its container and its node, in the order of its likely blame."""
    endpoint = inventory.endpoint_named[name]
    was, is_now = (well_of(each, each.endpoints[name], endpoint, workload_of(each, endpoint)) for each in (then, now))
    return between(was, is_now)
