"""A real Prometheus scrapes a real watch by the configuration that `tierdeck export prometheus` writes."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import DEVNULL
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.cli.driving import started, tierdeck
from tests.engines.servers import free_port
from tests.lab.cache import require


async def asked(server: str, query: str) -> list[tuple[dict[str, str], float]]:
    """What Prometheus answers to a query, as (labels, value)."""
    async with aiohttp.ClientSession() as session, session.get(f"{server}/api/v1/query?query={quote(query)}") as answer:
        answer.raise_for_status()  # while it starts it says so in words
        found: Any = json.loads(await answer.text())
    return [(row["metric"], float(row["value"][1])) for row in found["data"]["result"]]


async def until_told(server: str, query: str, wanted: float) -> None:
    """Wait until every series of a query has that value."""
    async with asyncio.timeout(60):
        while True:
            try:
                values = [value for _, value in await asked(server, query)]
            except aiohttp.ClientError:
                values = []
            if values and set(values) == {wanted}:
                return
            await asyncio.sleep(0.2)


async def test_prometheus_reads_the_watch(tmp_path: Path) -> None:
    require("prometheus")
    env, log = {"TIERDECK_STATE": str(tmp_path / "state")}, tmp_path / "prometheus.log"
    sim = SimulatedCluster(tmp_path / "sim", speed=100.0, name="small")
    sim.extra = {"defaults": {"interval": "500ms"}}
    gpu = sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)
    sim.add_node("mark", gpus=[gpu])
    engine = LlamaCpp(sim.world, models=["/models/a.gguf"])
    sim.add_endpoint("remote/a", engine, node="mark", container="a", gpu=0, vram_mib=3000.0, tasks=["chat"])
    async with sim:
        file, watch = ("--cluster", str(sim.inventory_path)), f"127.0.0.1:{free_port()}"
        told = await tierdeck("export", "prometheus", "--watch", watch, *file, env=env)
        config = tmp_path / "prometheus.yml"
        config.write_text(told.out.replace('"15s"', '"1s"'))
        check = await asyncio.create_subprocess_exec(shutil.which("promtool") or "", "check", "config", str(config))
        assert await check.wait() == 0
        async with started("watch", "--metrics", watch, *file, env=env):
            at = f"127.0.0.1:{free_port()}"
            with log.open("wb") as written:
                prometheus = await asyncio.create_subprocess_exec(
                    shutil.which("prometheus") or "", f"--config.file={config}",
                    f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={at}",
                    stdout=DEVNULL, stderr=written,
                )  # fmt: skip
            try:
                server = f"http://{at}"
                await until_told(server, "up", 1.0)
                await until_told(server, "tierdeck_endpoint_up", 1.0)
                await until_told(server, 'tierdeck_endpoint_verdict{verdict="UP"}', 1.0)
                await until_told(server, "tierdeck_gpu_memory_total_bytes", 24576.0 * 2**20)
                for name in ("latency_seconds", "requests_waiting"):
                    async with asyncio.timeout(30):
                        while not await asked(server, f"tierdeck_endpoint_{name}"):
                            await asyncio.sleep(0.2)
            except TimeoutError:
                pytest.fail(f"Prometheus ({prometheus.returncode}) said:\n{log.read_text()[-3000:]}")
            finally:
                if prometheus.returncode is None:
                    prometheus.terminate()
                await prometheus.wait()
