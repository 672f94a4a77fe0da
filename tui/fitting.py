"""What the fit screen begins with: the nodes with their GPUs, and the models that could go there."""

from __future__ import annotations

from collections.abc import Callable

from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.memory.advice import Gpu
from backends.memory.profiles import build_of
from backends.memory.settings import Settings
from backends.planned import settings_of
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
    """The inventory's models, what every Ollama has, and what containers run, with the settings that those have there.

    What the node's Ollama holds now is marked.
    """
    found = {model.name: Candidate(model.name) for model in inventory.models}
    files = {model.file for model in inventory.models}
    for endpoint in inventory.endpoints:
        workload = workload_of(snapshot, endpoint)
        for model in snapshot.endpoints[endpoint.name].models if endpoint.engine == "ollama" else ():
            marked = bool(model.loaded) and endpoint.node == node
            settings = Settings(context=model.context or 0) if marked else Settings()
            found.setdefault(model.name, Candidate(model.name, marked=marked, settings=settings))
        launch = workload.launch if workload and endpoint.engine == "llama.cpp" else None
        if workload and launch and launch.file and launch.file.startswith("volume:") and launch.file not in files:
            build = build_of(snapshot.endpoints[endpoint.name].version, workload.image)
            settings = settings_of(inventory, launch, build)
            found.setdefault(launch.file, Candidate(launch.file, settings=settings))
    return list(found.values())
