"""`tierdeck watch` as systemd runs it: logs, messages, heartbeat, metrics, history, an end in order."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.httpfaults import HttpFault
from tests.alerts.receiver import Receiver, receiving
from tests.cli.driving import started, tierdeck, until
from tests.engines.servers import free_port


@asynccontextmanager
async def watching(sim: SimulatedCluster, receiver: Receiver, state: Path, *words: str) -> AsyncIterator[Any]:
    """A watch of the cluster, and what it has logged so far."""
    env = {"TIERDECK_STATE": str(state), "HOOK": receiver.url.replace("http", "json") + "/hook"}
    log: list[dict[str, str]] = []
    async with started("watch", "--json", "--cluster", str(sim.inventory_path), *words, env=env) as process:

        async def read() -> None:
            assert process.stdout is not None
            async for row in process.stdout:
                log.append(json.loads(row))

        reader = asyncio.ensure_future(read())
        yield process, log
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        await reader


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[tuple[SimulatedCluster, Receiver]]:
    async with receiving() as receiver:
        sim = SimulatedCluster(tmp_path / "sim", speed=100.0, name="small")
        alerts = {"to": ["env:HOOK"], "group": "500ms", "heartbeat": f"{receiver.url}/beat", "heartbeat_every": "200ms"}
        sim.extra = {"defaults": {"interval": "200ms"}, "alerts": alerts}
        for name in ("near", "far"):
            sim.add_endpoint(name, LlamaCpp(sim.world, models=["m"]), tasks=["chat"])
        async with sim:
            yield sim, receiver


async def scraped(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return await answer.text()


async def test_a_fall_is_logged_told_recorded_and_measured(
    sim: tuple[SimulatedCluster, Receiver], tmp_path: Path
) -> None:
    cluster, receiver = sim
    state, port = tmp_path / "state", free_port()
    metrics = f"127.0.0.1:{port}"
    server = cluster.endpoints["far"].server
    async with watching(cluster, receiver, state, "--metrics", metrics) as (_, log):
        await until(lambda: len(receiver.gets) > 2, "heartbeats while all is well")
        assert 'tierdeck_endpoint_up{endpoint="far"' in await scraped(f"http://{metrics}/metrics")
        assert receiver.posts == []
        await server.inflict(HttpFault("refuse"))
        await until(lambda: receiver.posts, "a message")
        ((_, payload),) = receiver.posts
        assert "DOWN far: REFUSED" in payload["message"]
        assert payload["type"] == "failure"
        assert [row["word"] for row in log if row["subject"] == "far"] == ["DOWN"]
        beats = len(receiver.gets)
        await asyncio.sleep(1.0)
        assert len(receiver.gets) <= beats + 1
        text = await scraped(f"http://{metrics}/metrics")
        assert 'tierdeck_endpoint_up{endpoint="far",tier="LOCAL",node="",engine="llama.cpp"} 0' in text
    async with watching(cluster, receiver, state) as (_, log):
        await until(lambda: log, "the state anew")
        await server.heal()
        await until(lambda: len(receiver.posts) > 1, "the recovery")
        assert len(receiver.posts) == 2
        assert "UP far" in receiver.posts[1][1]["message"]
    told = await tierdeck(
        "history", "--endpoint", "far", "--cluster", str(cluster.inventory_path), env={"TIERDECK_STATE": str(state)}
    )
    assert [line.split()[4] for line in told.out.splitlines()][:1] == ["DOWN"]


async def test_a_taken_port_and_nonsense_are_told(sim: tuple[SimulatedCluster, Receiver], tmp_path: Path) -> None:
    cluster, receiver = sim
    port = receiver.url.rpartition(":")[2]
    env = {"TIERDECK_STATE": str(tmp_path / "state")}
    words = ("watch", "--cluster", str(cluster.inventory_path), "--metrics")
    taken = await tierdeck(*words, f"127.0.0.1:{port}", env=env)
    assert (taken.code, taken.out) == (3, "")
    assert f"Metrics cannot be served at 127.0.0.1:{port}" in taken.err
    nonsense = await tierdeck(*words, "nine", env=env)
    assert (nonsense.code, nonsense.out) == (2, "")
    assert "no HOST:PORT" in nonsense.err
    assert "Traceback" not in taken.err + nonsense.err
