"""Every way in which an endpoint can be ill: named in time, while a healthy neighbour is read at its full pace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp.abc import ResolveResult

from backends.cluster import words
from backends.cluster.files import Loaded, parse
from backends.cluster.words import VERDICT_OF, Cause, Verdict
from backends.engines import names
from backends.simulator.cluster import SimEndpoint, SimulatedCluster, State
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.httpfaults import HttpFault
from tests.world.watching import Watch, Yardstick, measuring, watching

LIMIT = 2.0
"""The ill endpoint's time limit, in seconds."""

INTERVAL = 0.05
"""Seconds between two probes of an endpoint."""

NOWHERE = "no-such-host.invalid"


@dataclass(frozen=True)
class Ill:
    """An illness: what is done to an endpoint, and what must be said of it; `{at}` in `words` is its address.

    `url` replaces what the inventory says of its address: {port} is its port.
    """

    name: str
    cause: Cause
    words: str
    fault: HttpFault | None = None
    url: str = ""
    stranger: bool = False
    """Ollama answers where the inventory says llama.cpp."""
    loads: bool = False
    """It loads its model, and does not come to an end."""


ILLNESSES = (
    Ill("refused", Cause.REFUSED, "connect refused by {at}", HttpFault("refuse")),
    Ill("black-holed", Cause.TIMEOUT, "no answer from {at} within 2 s", HttpFault("black_hole")),
    Ill("half-open", Cause.TIMEOUT, "no answer from {at} within 2 s", HttpFault("half_open")),
    Ill("slow-dripping", Cause.TIMEOUT, "within 2 s", HttpFault("drip", seconds=0.02)),
    Ill("500", Cause.BAD_RESPONSE, "500 on /health: Internal Server Error", HttpFault("status", status=500)),
    Ill("401", Cause.CONFIG, "401 on /health: API key missing", HttpFault("status", status=401)),
    Ill("403", Cause.CONFIG, "403 on /health: API key missing", HttpFault("status", status=403)),
    Ill("404", Cause.CONFIG, "404 on /health: no such route", HttpFault("status", status=404)),
    Ill("429", Cause.RATE_LIMITED, "429 on /health: too many requests, again in 30 s",
        HttpFault("status", status=429, retry_after=30)),
    Ill("503 Loading model", Cause.LOADING, "503 Loading model", loads=True),
    Ill("503", Cause.BAD_RESPONSE, "503 on /health", HttpFault("status", status=503)),
    Ill("no JSON", Cause.BAD_RESPONSE, "200 on /health: a web page, no JSON", HttpFault("not_json")),
    Ill("wrong JSON", Cause.BAD_RESPONSE, "200 on /health: JSON, but not that of llama.cpp", HttpFault("wrong_json")),
    Ill("a gigabyte", Cause.BAD_RESPONSE, "{at} answers more than 1 MiB", HttpFault("huge")),
    Ill("redirecting", Cause.BAD_RESPONSE, "302 on /health: redirects to http://127.0.0.1:9/elsewhere",
        HttpFault("redirect")),
    Ill("TLS broken", Cause.TLS, "no TLS with {at}", HttpFault("tls_broken"), url="https://127.0.0.1:{port}"),
    Ill("no TLS there", Cause.TLS, "no TLS with {at}", url="https://127.0.0.1:{port}"),
    Ill("no such name", Cause.DNS, f"no address for {NOWHERE}:{{port}}", url=f"http://{NOWHERE}:{{port}}"),
    Ill("reset in mid-answer", Cause.RESET, "{at}", HttpFault("reset")),
    Ill("another engine", Cause.CONFIG, "ollama answers here, not llama.cpp", stranger=True),
    Ill("slow", Cause.BUSY, "answered only after 0.", HttpFault("slow", seconds=0.6)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _a_resolver_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    system = names.system_lookup

    def lookup(host: str, port: int, family: int) -> list[ResolveResult]:
        if host == NOWHERE:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return system(host, port, family)

    monkeypatch.setattr(names, "system_lookup", lookup)


class Ward:
    """One healthy endpoint, "neighbour", and one for each illness."""

    def __init__(self, folder: Path, illnesses: Sequence[Ill]) -> None:
        self.illnesses = illnesses
        self.sim = SimulatedCluster(folder, speed=100.0)
        self.sim.extra = {"defaults": {"interval": f"{INTERVAL * 1000:g}ms"}}
        self.neighbour = self.sim.add_endpoint("neighbour", LlamaCpp(self.sim.world, models=["m"]), tier="WELL")
        self.beds = {ill.name: self._admit(ill) for ill in illnesses}

    def _admit(self, ill: Ill) -> SimEndpoint:
        world = self.sim.world
        engine = Ollama(world, library=[OllamaModel("m:1b")]) if ill.stranger else LlamaCpp(world, models=["m"])
        state: State = "starting" if ill.loads else "ready"
        load_s = 1e6 if ill.loads else 1.0
        return self.sim.add_endpoint(
            ill.name, engine, tier="ILL", state=state, load_s=load_s, timeout=f"{LIMIT}s", slow="500ms"
        )

    async def fall_ill(self) -> Loaded:
        """Break what is to be broken; the inventory."""
        text = self.sim.inventory.replace('engine = "ollama"', 'engine = "llama.cpp"')
        for ill in self.illnesses:
            server = self.beds[ill.name].server
            if ill.fault is not None:
                await server.inflict(ill.fault)
            if ill.url:
                text = text.replace(server.url, ill.url.format(port=server.port))
        return parse(text, self.sim.inventory_path)

    async def check(self, watch: Watch, yardstick: Yardstick, ill: Ill) -> None:
        """It was shown with its cause and words within its time limit and half a second, but for a late machine."""
        took, snapshot = await watch.shows(lambda s: s.endpoints[ill.name].cause is not None, f"{ill.name} is judged")
        assert took < LIMIT + 0.5 + yardstick.late, f"{ill.name}: judged only after {took:.2f} s"
        state, port = snapshot.endpoints[ill.name], self.beds[ill.name].server.port
        assert state.cause is ill.cause, (ill.name, state.evidence)
        assert state.verdict is VERDICT_OF[ill.cause]
        assert ill.words.format(at=f"127.0.0.1:{port}", port=port) in state.evidence, ill.name
        if ill.fault is not None and ill.fault.retry_after is not None:
            assert watch.of(ill.name)[-1].interval >= ill.fault.retry_after


def at_full_pace(watch: Watch, yardstick: Yardstick, name: str) -> None:
    """It was read again and again, at its interval and not more seldom, and was well each time."""
    read = watch.of(name)
    assert len(read) >= 3, f"{name} was read {len(read)} times, possible were {yardstick.count}"
    assert {(r.result.cause, r.interval) for r in read} == {(Cause.OK, INTERVAL)}
    assert watch.endpoint(name).verdict is Verdict.UP


@pytest.mark.parametrize("ill", ILLNESSES, ids=lambda ill: ill.name)
async def test_a_fault_is_named_in_time_and_slows_nobody(ill: Ill, tmp_path: Path) -> None:
    ward = Ward(tmp_path / "sim", [ill])
    async with ward.sim:
        loaded = await ward.fall_ill()
        async with (
            watching(loaded, tmp_path / "state") as watch,
            measuring(ward.neighbour.server.port, INTERVAL) as yardstick,
        ):
            await ward.check(watch, yardstick, ill)
            await watch.until(lambda: yardstick.count >= 10, "ten rounds")
            at_full_pace(watch, yardstick, "neighbour")


async def test_all_faults_at_once_slow_nobody_and_all_are_mended(tmp_path: Path) -> None:
    ward = Ward(tmp_path / "sim", ILLNESSES)
    async with ward.sim:
        loaded = await ward.fall_ill()
        async with watching(loaded, tmp_path / "state") as watch:
            async with measuring(ward.neighbour.server.port, INTERVAL) as yardstick:
                for ill in ILLNESSES:
                    await ward.check(watch, yardstick, ill)
                await watch.until(lambda: yardstick.count >= 20, "twenty rounds")
                at_full_pace(watch, yardstick, "neighbour")
            tiers = {tier.name: tier.state for tier in watch.snapshot.tiers}
            assert tiers == {"WELL": words.State.HEALTHY, "ILL": words.State.DEGRADED}
            mended = [ill.name for ill in ILLNESSES if ill.fault is not None and not ill.url]
            await asyncio.gather(*(ward.beds[name].server.heal() for name in mended))
            for name in mended:
                watch.nudge(name)
            await watch.until(lambda: all(watch.endpoint(n).verdict is Verdict.UP for n in mended), "all are mended")


async def test_a_time_limit_longer_than_three_intervals_is_no_silence(tmp_path: Path) -> None:
    """Who hangs for his whole time limit is read all the same, and so is never STALE."""
    ward = Ward(tmp_path / "sim", [ill for ill in ILLNESSES if ill.name == "half-open"])
    async with ward.sim:
        loaded = await ward.fall_ill()
        async with watching(loaded, tmp_path / "state") as watch:
            await watch.until(lambda: len(watch.of("half-open")) >= 4, "four readings")
            causes = {snapshot.endpoints["half-open"].cause for _, snapshot in watch.shown}
            assert causes <= {None, Cause.TIMEOUT}
