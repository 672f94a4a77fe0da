"""A simulated cluster in a process of its own, so that its cost is not taken for the console's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


async def _serve(directory: Path, interval: str, nodes: int, gpus: int, endpoints: int, containers: int) -> None:
    from backends.simulator.demo import many

    sim = many(directory, nodes=nodes, gpus=gpus, endpoints=endpoints, containers=containers)
    sim.extra = {"defaults": {"interval": interval, "timeout": "3s"}}
    async with sim:
        print(json.dumps({"cluster": str(sim.inventory_path), "environment": sim.secrets}), flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()


@contextlib.contextmanager
def cluster(
    directory: Path, *, nodes: int, gpus: int, endpoints: int, containers: int, interval: str = "2s"
) -> Iterator[dict[str, str]]:
    """Run one; yields the environment in which the console finds it."""
    counts = map(str, (nodes, gpus, endpoints, containers))
    argv = [sys.executable, "-m", "tests.bench.cluster", str(directory), interval, *counts]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield {
            "TIERDECK_CLUSTER": told["cluster"],
            "TIERDECK_STATE": str(directory / "state"),
            "SSH_CONNECTION": "127.0.0.1 1 127.0.0.1 22",
            **told["environment"],
        }
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])))
