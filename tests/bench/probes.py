"""What one probe costs: CPU of this process alone, the servers being another's; and what httpx's own client would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import httpx

from backends.cluster.files import load
from backends.cluster.words import Cause
from backends.engines.http import Http
from backends.engines.llamacpp import LlamaCpp
from backends.engines.target import Target
from tests.bench.cluster import cluster
from tests.bench.rows import Row

ENDPOINTS = 200
PROBES = 500
PACE = 0.005
"""Seconds between the beginnings of two probes, as a poller spreads them."""


def probes(folder: Path) -> Iterator[Row]:
    """The row of one HTTP probe, beside a shared httpx client that asks the same of 200 endpoints."""
    folder.mkdir()
    with cluster(folder, nodes=1, gpus=1, endpoints=ENDPOINTS, containers=0) as found:
        urls = [endpoint.url for endpoint in load(Path(found["TIERDECK_CLUSTER"])).inventory.endpoints]
        ours, bare = zip(*(asyncio.run(_both(urls)) for _ in range(3)), strict=True)
    yield Row("one HTTP probe of 200 endpoints, CPU", 1000 * min(ours), 1000 * min(bare), 1.6, "ms")


async def _both(urls: Sequence[str]) -> tuple[float, float]:
    """Seconds of CPU that a probe takes: ours, and httpx's with one client for all."""
    engine = LlamaCpp()
    async with Http() as http, httpx.AsyncClient(trust_env=False) as client:

        async def probe(url: str) -> None:
            found = await engine.probe(http, Target(url, engine.name), deep=False)
            assert found.cause is Cause.OK, found.evidence

        async def ask(url: str) -> None:
            assert (await client.get(f"{url}/health")).json() == {"status": "ok"}

        return await _cost(probe, urls), await _cost(ask, urls)


async def _cost(call: Callable[[str], Awaitable[None]], urls: Sequence[str]) -> float:
    """Seconds of CPU that one call takes, all in, when they are begun at an even pace."""
    await asyncio.gather(*(call(url) for url in urls[:20]))
    began = time.process_time()
    async with asyncio.TaskGroup() as group:
        for url in islice(cycle(urls), PROBES):
            group.create_task(_awaited(call(url)))
            await asyncio.sleep(PACE)
    return (time.process_time() - began) / PROBES


async def _awaited(call: Awaitable[None]) -> None:
    await call
