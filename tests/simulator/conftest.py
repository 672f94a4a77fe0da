"""A small cluster told five hundred times too fast, and the demo's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from backends.simulator.cluster import SimEndpoint, SimulatedCluster
from backends.simulator.demo import demo


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Wait for a condition, at most so many real seconds."""
    for _ in range(int(seconds / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise TimeoutError(f"not within {seconds} s")


async def ready(endpoint: SimEndpoint) -> None:
    """Wait until an endpoint serves, at most five real seconds."""
    async with asyncio.timeout(5.0):
        await endpoint.program.became_ready.wait()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5.0) as client:
        yield client


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    async with demo(tmp_path, speed=100.0, tokens_per_second=400.0) as sim:
        yield sim
