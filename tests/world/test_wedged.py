"""A server that says it is healthy while its work stands still, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from backends.cluster.files import Loaded, parse
from backends.cluster.words import Cause, Verdict
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.sglang import SgLang
from backends.simulator.engines.vllm import Vllm
from tests.engines.servers import Canned, Reply, listening, recorded
from tests.world.watching import STARVED, watching

INTERVAL = 0.4
ENGINES = {"vllm": Vllm, "llama.cpp": LlamaCpp, "sglang": SgLang}


@asynccontextmanager
async def asking(url: str, count: int) -> AsyncGenerator[None, None]:
    """Prompts that wait for their answers."""
    async with httpx.AsyncClient(timeout=60, verify=False) as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        tasks = [asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body)) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("name", ENGINES)
async def test_wedged_from_idleness_is_stalled_within_three_intervals_and_well_again(name: str, tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path / "sim")
    sim.extra = {"defaults": {"interval": f"{INTERVAL}s"}}
    endpoint = sim.add_endpoint("a", ENGINES[name](sim.world, models=["m"], tokens_per_second=500.0))
    async with sim, watching(parse(sim.inventory, sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: len(watch.of("a")) >= 3, "it is known")
        assert watch.endpoint("a").cause is Cause.OK
        endpoint.engine.wedged = True
        async with asking(endpoint.server.url, 3):
            await watch.until(lambda: endpoint.engine.running, "it has work")
            watch.forget()
            took, snapshot = await watch.shows(lambda s: s.endpoints["a"].cause is Cause.STALLED, "stalled")
            assert took < 3 * INTERVAL + STARVED
            assert len(watch.of("a")) <= 4, "in three intervals there are no more than three looks, and one begun"
            assert snapshot.endpoints["a"].verdict is Verdict.DOWN
            assert "no token" in snapshot.endpoints["a"].evidence
        endpoint.engine.wedged = False
        await watch.until(lambda: watch.endpoint("a").verdict is Verdict.UP, "well again")


@pytest.mark.parametrize("name", ENGINES)
async def test_one_that_works_is_never_stalled_and_shows_what_it_does(name: str, tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path / "sim")
    sim.extra = {"defaults": {"interval": "0.1s"}}
    engine = ENGINES[name](sim.world, models=["m"], tokens_per_second=50.0, answer_tokens=1000, slots=2)
    endpoint = sim.add_endpoint("a", engine)
    async with (
        sim,
        watching(parse(sim.inventory, sim.inventory_path), tmp_path / "state") as watch,
        asking(endpoint.server.url, 12),
    ):
        await watch.until(lambda: watch.endpoint("a").cause is Cause.BUSY, "its queue is too long")
        assert watch.endpoint("a").evidence == "10 requests wait (limit 8)"
        await watch.until(lambda: len(watch.endpoint("a").samples) >= 20, "twenty samples")
        state = watch.endpoint("a")
        assert {s.endpoints["a"].cause for _, s in watch.shown} <= {None, Cause.OK, Cause.BUSY}
        assert state.work is not None
        assert (state.work.running, state.work.waiting) == (2, 10)
        rates = sorted(s.tokens_per_s for s in state.samples if s.tokens_per_s is not None)
        assert 20 <= rates[len(rates) // 2] <= 160, "two answers of fifty tokens a second, as this machine allows"


async def test_an_idle_endpoint_costs_one_request_a_turn(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path / "sim")
    sim.extra = {"defaults": {"interval": "50ms"}}
    endpoint = sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"]))
    async with sim, watching(parse(sim.inventory, sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: len(watch.of("a")) >= 25, "five rounds")
        turns, asked = len(watch.of("a")), endpoint.engine.requests
        assert asked["GET /health"] + asked["GET /metrics"] <= turns + turns / 5 + 2
        assert asked["GET /v1/models"] <= turns / 5 + 2
        assert "GET /slots" not in asked


def described(port: int, engine: str = "vllm") -> Loaded:
    text = f"""
version = 1
name = "t"
defaults = {{ interval = "200ms" }}
[[tiers]]
name = "A"
[[endpoints]]
name = "a"
tier = "A"
engine = "{engine}"
url = "http://127.0.0.1:{port}"
"""
    return parse(text, Path("t.toml"))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("vllm:num_requests_running NaN\nvllm:generation_tokens_total\n\x00{{{\n", "answered; 1 model"),
        ("vllm:generation_tokens_total 5\n" + "# noise of every kind and length\n" * 100_000, "more than 1 MiB"),
        ("x" * 500_000, "answered; 1 model"),
        ("vllm:generation_tokens_total 5\n" * 30_000, "answered; 1 model"),
    ],
    ids=["broken", "100,000 lines", "one long line", "many samples"],
)
async def test_metrics_of_every_kind_are_never_fatal(metrics: str, words: str, tmp_path: Path) -> None:
    replies = {**recorded("vllm"), "/metrics": Reply(200, metrics)}
    async with listening(Canned(replies)) as port, watching(described(port), tmp_path) as watch:
        await watch.until(lambda: len(watch.of("a")) >= 6, "six readings")
        assert {r.result.cause for r in watch.of("a")} == {Cause.OK}
        assert any(words in r.result.evidence for r in watch.of("a"))


async def test_counters_that_never_come_are_no_failure(tmp_path: Path) -> None:
    """llama.cpp answers /metrics from its main loop, which a long prompt may hold for a while."""
    well = Canned({**recorded("vllm"), "/metrics": Reply(200, "vllm:num_requests_running 0\n")})
    silent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            if path == "/metrics" and silent.is_set():
                await asyncio.Event().wait()
            well.seen.clear()
            reply = well.replies.get(path, well.other)
            writer.write((reply[0] if isinstance(reply, list) else reply).wire)
            await writer.drain()

    text = described(1).text.replace('interval = "200ms"', 'interval = "200ms", timeout = "600ms"')
    async with listening(serve) as port:
        loaded = parse(text.replace("127.0.0.1:1", f"127.0.0.1:{port}"), Path("t.toml"))
        async with watching(loaded, tmp_path) as watch:
            await watch.until(lambda: len(watch.of("a")) >= 3, "it is known")
            silent.set()
            watch.forget()
            await watch.until(lambda: len(watch.of("a")) >= 7, "seven turns")
            assert {r.result.cause for r in watch.of("a")} == {Cause.OK}
            assert watch.endpoint("a").verdict is Verdict.UP
