"""A node whose models on demand share a GPU that cannot hold them all: what the tests of `up` and of the router use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.procedures.learned import Learned
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp

NEED = {"always": 8000.0, "one": 6000.0, "two": 5000.0, "new": 9000.0, "huge": 20000.0}
"""MiB of 24,576; all but the first are on demand."""

RUNNING = ("always", "one", "two")

TASKS = {"always": ["chat"], "one": ["vision"], "two": ["embed"], "new": ["code"], "huge": ["reason"]}


def shelf(folder: Path, state: Path, *, idle: str = "10m") -> SimulatedCluster:
    """It, with what past starts took: 4 s each, and the memory above."""
    sim = SimulatedCluster(folder, name="shelf", speed=20.0)
    gpu = sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)
    sim.add_node("mark", gpus=[gpu], fields={"queue": {"order": ["always"], "gap": "50ms", "ready_timeout": "30s"}})
    learned = Learned(state)
    for name, mib in NEED.items():
        learned.learn("mark", name, 4.0, mib)
        engine = LlamaCpp(sim.world, models=[f"/models/{name}.gguf"], embeddings=name == "two", vision=name == "one")
        fields: dict[str, Any] = {} if name == "always" else {"on_demand": True, "idle": idle}
        sim.add_endpoint(
            f"mark/{name}", engine, node="mark", container=name, gpu=0, vram_mib=mib, init_s=0.1, load_s=0.2,
            state="ready" if name in RUNNING else "stopped", tasks=TASKS[name], **fields,
        )  # fmt: skip
    return sim


def running(sim: SimulatedCluster) -> list[str]:
    """The containers that run."""
    return [name for name in NEED if sim.nodes["mark"].container(name).running]
