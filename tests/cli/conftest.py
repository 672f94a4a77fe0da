"""Small simulated clusters, and a place of its own for what procedures leave behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.cli.driving import ours


@pytest.fixture(autouse=True)
def _short_sockets(short_sockets: None) -> None:
    """Every command here may start a procedure."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """The state directory; what still runs with it at the end is ended."""
    path = tmp_path / "state"
    yield path
    for process in ours(path):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
async def mark(tmp_path: Path, state: Path) -> AsyncIterator[SimulatedCluster]:
    """A node with a GPU that the inventory does not read, and two stopped containers, reached by SSH.

    Where GPU memory cannot be read the queue's gate does not wait for it: two seconds less a container.
    """
    sim = SimulatedCluster(tmp_path / "sim", name="small")
    gpu = sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)
    queue = {"order": ["a", "b"], "gap": "50ms", "ready_timeout": "30s"}
    sim.add_node("mark", gpus=[gpu], fields={"queue": queue, "gpus": "none"})
    for name in ("a", "b"):
        engine = LlamaCpp(sim.world, models=[f"/models/{name}.gguf"])
        sim.add_endpoint(
            f"remote/{name}", engine, tier="REMOTE", node="mark", container=name, gpu=0, vram_mib=3000.0, init_s=0.1,
            load_s=0.2, state="stopped",
        )  # fmt: skip
    async with sim:
        yield sim
