"""What the fit screen begins with: the nodes with their GPUs, and the models that could go there."""

from __future__ import annotations

from collections.abc import Callable

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.memory.advice import Gpu
from widgets.fit import MIB, Candidate, Place


def places(
    inventory: Inventory, snapshot: ClusterSnapshot, first: str | None, driver: Callable[[str, str], int]
) -> list[Place]:
    """The nodes whose GPUs have a known size, the selected one first; `driver` tells what that of a GPU keeps."""
    found = []
    for node in inventory.nodes:
        seen = {gpu.index: gpu for gpu in snapshot.nodes[node.name].gpus}
        sizes = {index: gpu.memory_total_mib for index, gpu in seen.items() if gpu.memory_total_mib}
        sizes |= {index: size for index, size in enumerate(node.vram) if index not in sizes}
        names = {index: seen[index].name if index in seen else "" for index in sizes}
        gpus = tuple(
            Gpu(f"GPU{index}", int(size * MIB), driver(node.name, names[index]))
            for index, size in sorted(sizes.items())
        )
        used = tuple(seen[index].memory_used_mib if index in seen else None for index in sorted(sizes))
        if gpus:
            found.append(Place(node.name, gpus, used))
    return sorted(found, key=lambda place: place.node != first)


def candidates(inventory: Inventory, snapshot: ClusterSnapshot, node: str) -> list[Candidate]:
    """The inventory's models, then what every Ollama has; what the node's Ollama holds now is marked."""
    found = {model.name: Candidate(model.name) for model in inventory.models}
    for endpoint in inventory.endpoints:
        if endpoint.engine == "ollama":
            for model in snapshot.endpoints[endpoint.name].models:
                marked = bool(model.loaded) and endpoint.node == node
                found.setdefault(model.name, Candidate(model.name, marked=marked))
    return list(found.values())
