"""The table of causes (DESIGN, section 3): each row made by a peer on a real socket, seen as a console sees it."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import ResolveResult

from backends.cluster.files import parse
from backends.cluster.words import VERDICT_OF, Cause
from backends.engines import names
from backends.simulator.cluster import SimEndpoint, SimulatedCluster
from backends.simulator.engines.base import Engine
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.router import LlamaRouter
from backends.simulator.engines.vllm import Vllm
from backends.simulator.httpfaults import HttpFault
from tests.world.test_wedged import asking
from tests.world.watching import Watch, watching

NOWHERE = "no-such-host.invalid"
Make = Callable[[SimulatedCluster], Engine]
Act = Callable[[SimEndpoint, Watch], Awaitable[object]]


def llama(sim: SimulatedCluster) -> Engine:
    return LlamaCpp(sim.world, models=["m"])


def asleep(sim: SimulatedCluster) -> Engine:
    return LlamaCpp(sim.world, models=["m"], sleep_after=0.1)


def on_demand(sim: SimulatedCluster) -> Engine:
    return Ollama(sim.world, library=[OllamaModel("m:1b")])


def routed(status: str) -> Make:
    def make(sim: SimulatedCluster) -> Engine:
        engine = LlamaRouter(sim.world, models=["m"])
        engine.statuses["m"] = status
        return engine

    return make


async def nothing(endpoint: SimEndpoint, watch: Watch) -> None:
    """It is so from the start."""


async def wedge(endpoint: SimEndpoint, watch: Watch) -> None:
    endpoint.engine.wedged = True


async def stop(endpoint: SimEndpoint, watch: Watch) -> None:
    await watch.until(lambda: watch.endpoint("a").cause is Cause.OK, "it was well")
    await endpoint.stop()


async def silence(endpoint: SimEndpoint, watch: Watch) -> None:
    """It was read, and is read no more: the poller's task for it is gone."""
    await watch.until(lambda: watch.endpoint("a").cause is Cause.OK, "it was well")
    watch.lose("a")


async def maintain(endpoint: SimEndpoint, watch: Watch) -> None:
    watch.world.maintenance.begin("a", time.time() + 3600, time.time())


@dataclass(frozen=True)
class Row:
    """A peer, what is done to it, and what must be said of it; `{at}` in `words` is its address."""

    name: str
    cause: Cause
    words: str
    make: Make = llama
    fault: HttpFault | None = None
    url: str = ""
    state: Any = "ready"
    act: Act = nothing
    boxed: bool = False
    prompts: int = 0
    fields: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row("well", Cause.OK, "answered; 1 model"),
    Row("llama.cpp loads", Cause.LOADING, "503 Loading model", state="starting"),
    Row("a router's model loads", Cause.LOADING, "router: m is loading", routed("loading")),
    Row("a container in its start window", Cause.LOADING, "starting: connect refused by {at}",
        lambda sim: Vllm(sim.world, models=["m"]), state="starting", boxed=True),
    Row("llama.cpp sleeps", Cause.SLEEPING, "asleep; loads on demand", asleep),
    Row("a router's model is not loaded", Cause.SLEEPING, "no model loaded now", routed("unloaded")),
    Row("Ollama's model is not loaded", Cause.SLEEPING, "no model loaded now, 1 model on demand", on_demand),
    Row("slow", Cause.BUSY, "answered only after 0.", fault=HttpFault("slow", seconds=0.15), fields={"slow": "100ms"}),
    Row("a long queue", Cause.BUSY, "requests wait (limit 1)",
        lambda sim: Vllm(sim.world, models=["m"], slots=1, tokens_per_second=20.0, answer_tokens=2000), prompts=4,
        fields={"queue_limit": 1}),
    Row("wedged", Cause.STALLED, "its work stands still: 0 running, 2 waiting, no token",
        lambda sim: Vllm(sim.world, models=["m"]), act=wedge, prompts=2),
    Row("401", Cause.CONFIG, "401 on /health: API key missing", fault=HttpFault("status", status=401)),
    Row("403", Cause.CONFIG, "403 on /health: API key missing", fault=HttpFault("status", status=403)),
    Row("404", Cause.CONFIG, "404 on /health: no such route", fault=HttpFault("status", status=404)),
    Row("another engine", Cause.CONFIG, "ollama answers here, not llama.cpp", on_demand,
        fields={"engine": "llama.cpp"}),
    Row("a model is missing", Cause.CONFIG, "model other is missing; has m", fields={"model": "other"}),
    Row("a router's model failed", Cause.CONFIG, "m failed to load (exit code 1)", routed("failed"),
        fields={"model": "m"}),
    Row("closed from here", Cause.CONFIG, 'answers on n, but is closed from here: open its port, or say via = "ssh"',
        boxed=True, fields={"fence": "refuse"}),
    Row("dropped from here", Cause.CONFIG, 'answers on n, but is closed from here: open its port, or say via = "ssh"',
        boxed=True, fields={"fence": "black_hole"}),
    Row("too many requests", Cause.RATE_LIMITED, "429 on /health: too many requests, again in 30 s",
        fault=HttpFault("status", status=429, retry_after=30)),
    Row("accepts and is silent", Cause.TIMEOUT, "no answer from {at} within 1 s", fault=HttpFault("half_open")),
    Row("drips", Cause.TIMEOUT, "within 1 s", fault=HttpFault("drip", seconds=0.02)),
    Row("refuses", Cause.REFUSED, "connect refused by {at}", fault=HttpFault("refuse")),
    Row("no route", Cause.UNREACHABLE, "Network is unreachable: 255.255.255.255:{port}",
        url="http://255.255.255.255:{port}"),
    Row("no such name", Cause.DNS, f"no address for {NOWHERE}:{{port}}", url=f"http://{NOWHERE}:{{port}}"),
    Row("TLS broken", Cause.TLS, "no TLS with {at}", fault=HttpFault("tls_broken"), url="https://127.0.0.1:{port}"),
    Row("no TLS there", Cause.TLS, "no TLS with {at}", url="https://127.0.0.1:{port}"),
    Row("reset", Cause.RESET, "{at}", fault=HttpFault("reset")),
    Row("500", Cause.BAD_RESPONSE, "500 on /health", fault=HttpFault("status", status=500)),
    Row("503 without a word", Cause.BAD_RESPONSE, "503 on /health", fault=HttpFault("status", status=503)),
    Row("redirects", Cause.BAD_RESPONSE, "302 on /health: redirects to", fault=HttpFault("redirect")),
    Row("no JSON", Cause.BAD_RESPONSE, "a web page, no JSON", fault=HttpFault("not_json")),
    Row("wrong JSON", Cause.BAD_RESPONSE, "JSON, but not that of llama.cpp", fault=HttpFault("wrong_json")),
    Row("no end", Cause.BAD_RESPONSE, "{at} answers more than 1 MiB", fault=HttpFault("huge")),
    Row("unread", Cause.STALE, "no reading for", act=silence),
    Row("stopped on purpose", Cause.OFF, "stopped on purpose; started on demand", act=stop, boxed=True,
        fields={"on_demand": True}),
    Row("maintenance", Cause.MAINTENANCE, "a person said so", act=maintain),
)  # fmt: skip


def test_every_cause_has_its_row() -> None:
    assert {row.cause for row in ROWS} == set(Cause)


@pytest.fixture(autouse=True)
def _a_resolver_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    system = names.system_lookup

    def lookup(host: str, port: int, family: int) -> list[ResolveResult]:
        if host == NOWHERE:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return system(host, port, family)

    monkeypatch.setattr(names, "system_lookup", lookup)


@asynccontextmanager
async def made(row: Row, tmp_path: Path) -> AsyncGenerator[tuple[SimEndpoint, str], None]:
    """The peer as it is described, and its inventory."""
    sim = SimulatedCluster(tmp_path / "sim", speed=1.0)
    sim.extra = {"defaults": {"interval": "0.2s", "timeout": "1s"}}
    fields = dict(row.fields)
    engine = fields.pop("engine", None)
    if row.boxed:
        sim.add_node("n")
        fields |= {"node": "n", "container": "box"}
    load_s = 1e6 if row.state == "starting" else 1.0
    endpoint = sim.add_endpoint("a", row.make(sim), state=row.state, load_s=load_s, **fields)
    async with sim:
        if row.fault is not None:
            await endpoint.server.inflict(row.fault)
        text = sim.inventory
        if engine is not None:
            text = text.replace(f'engine = "{endpoint.engine.kind}"', f'engine = "{engine}"')
        if row.url:
            text = text.replace(endpoint.server.url, row.url.format(port=endpoint.server.port))
        yield endpoint, text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_peer_makes_its_cause(row: Row, tmp_path: Path) -> None:
    async with made(row, tmp_path) as (endpoint, text), AsyncExitStack() as stack:
        watch = await stack.enter_async_context(watching(parse(text, tmp_path / "c.toml"), tmp_path / "state"))
        await row.act(endpoint, watch)
        if row.prompts:
            await stack.enter_async_context(asking(endpoint.server.url, row.prompts))
        await watch.until(lambda: watch.endpoint("a").cause is row.cause, f"{row.name}: {row.cause}")
        state, port = watch.endpoint("a"), endpoint.server.port
        assert state.verdict is VERDICT_OF[row.cause]
        assert row.words.format(at=f"127.0.0.1:{port}", port=port) in state.evidence
        assert state.serving is (row.cause in (Cause.OK, Cause.SLEEPING, Cause.BUSY))


@asynccontextmanager
async def polled(
    engine: Engine, sim: SimulatedCluster, tmp_path: Path, then: Callable[[], object] = lambda: None
) -> AsyncGenerator[set[str], None]:
    """What it was asked in twenty turns and one by hand; `then` is done to it when it runs."""
    sim.extra = {"defaults": {"interval": "50ms"}}
    sim.add_endpoint("a", engine)
    async with sim:
        then()
        async with watching(parse(sim.inventory, sim.inventory_path), tmp_path / "state") as watch:
            await watch.until(lambda: len(watch.of("a")) >= 20, "twenty turns")
            watch.nudge(None)
            await watch.until(lambda: len(watch.of("a")) >= 22, "and by hand")
        yield set(engine.seen)


class TestNothingLoads:
    """Polling loads no model, whatever the engine offers to load on demand."""

    @pytest.mark.parametrize("status", ["unloaded", "sleeping", "loaded"])
    async def test_a_routers(self, status: str, tmp_path: Path) -> None:
        sim = SimulatedCluster(tmp_path / "sim")
        engine = LlamaRouter(sim.world, models=["m", "n"])
        async with polled(engine, sim, tmp_path, lambda: engine.statuses.update(m=status)) as asked:
            assert not engine.loads
            assert engine.statuses == {"m": status, "n": "unloaded"}
            assert asked == {"GET /health", "GET /v1/models", "GET /props"}

    async def test_a_sleepers(self, tmp_path: Path) -> None:
        sim = SimulatedCluster(tmp_path / "sim")
        engine = LlamaCpp(sim.world, models=["m"], sleep_after=0.2)
        async with polled(engine, sim, tmp_path) as asked:
            assert (engine.sleeping, engine.wakings) == (True, 0)
            assert "GET /slots" not in asked

    async def test_ollamas(self, tmp_path: Path) -> None:
        sim = SimulatedCluster(tmp_path / "sim")
        async with polled(Ollama(sim.world, library=[OllamaModel("m:1b")]), sim, tmp_path) as asked:
            assert asked == {"GET /api/version", "GET /api/tags", "GET /api/ps"}

    async def test_a_gateways(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SIM_KEY_A", "sk-1")
        sim = SimulatedCluster(tmp_path / "sim")
        behind = sim.add_endpoint("behind", LlamaCpp(sim.world, models=["m"]))
        engine = LiteLlm(sim.world, deployments=[Deployment("m", "m", behind.server)], api_key="sk-1")
        async with polled(engine, sim, tmp_path) as asked:
            assert asked == {"GET /health/liveliness", "GET /health/readiness", "GET /v1/models"}
