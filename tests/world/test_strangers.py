"""Peers that are not what they were: an endpoint that changes its engine, two engines on one port, a line gone dead."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from backends.cluster.files import Loaded, parse
from backends.cluster.words import Cause, Verdict
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.base import Engine
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.lmstudio import LmStudio
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.sglang import SgLang
from backends.simulator.engines.vllm import Vllm
from backends.simulator.relay import Relay
from tests.engines.servers import Canned, Reply, listening, recorded
from tests.world.test_wedged import described
from tests.world.watching import STARVED, Watch, watching

KINDS: dict[str, Callable[[SimulatedCluster], Engine]] = {
    "llama.cpp": lambda sim: LlamaCpp(sim.world, models=["m"]),
    "vllm": lambda sim: Vllm(sim.world, models=["m"]),
    "sglang": lambda sim: SgLang(sim.world, models=["m"]),
    "ollama": lambda sim: Ollama(sim.world, library=[OllamaModel("m:1b")]),
    "lmstudio": lambda sim: LmStudio(sim.world, models=["m"]),
}


class Port:
    """An address behind which now one engine answers, now another."""

    def __init__(self, sim: SimulatedCluster, kinds: tuple[str, ...]) -> None:
        self.ports = {kind: sim.add_endpoint(kind, KINDS[kind](sim)) for kind in kinds}
        self.pick: Callable[[], str] = lambda: kinds[0]
        self.relay = Relay(lambda: self.ports[self.pick()].server.port)
        self.socket = socket.create_server(("127.0.0.1", 0))

    async def change(self, kind: str) -> None:
        """Another engine takes the port, as after a container was recreated with another image."""
        self.pick = lambda: kind
        await self.relay.drop()

    @property
    def loaded(self) -> Loaded:
        """An inventory in which it is what answered first, with a short time limit."""
        text = described(self.socket.getsockname()[1], next(iter(self.ports))).text
        return parse(text.replace('"200ms"', '"100ms", timeout = "1s"'), Path("t.toml"))


@asynccontextmanager
async def behind(kinds: tuple[str, ...], tmp_path: Path) -> AsyncGenerator[tuple[Port, Watch], None]:
    sim = SimulatedCluster(tmp_path / "sim")
    port = Port(sim, kinds)
    try:
        async with sim:
            await port.relay.listen(port.socket)
            async with watching(port.loaded, tmp_path / "state") as watch:
                await watch.until(lambda: watch.endpoint("a").verdict is Verdict.UP, "it is what it should be")
                yield port, watch
    finally:
        port.relay.stop_listening()
        await port.relay.drop()
        port.socket.close()


@pytest.mark.parametrize(("was", "now"), itertools.permutations(KINDS, 2))
async def test_an_endpoint_that_changes_its_engine_is_named_and_back_again(was: str, now: str, tmp_path: Path) -> None:
    async with behind((was, now), tmp_path) as (port, watch):
        await port.change(now)
        await watch.until(lambda: watch.endpoint("a").cause is Cause.CONFIG, f"{now} is recognised")
        assert f"{now} answers here, not {was}" in watch.endpoint("a").evidence
        assert not watch.endpoint("a").serving
        await port.change(was)
        await watch.until(lambda: watch.endpoint("a").verdict is Verdict.UP, "it is what it was")


async def test_two_engines_on_one_port_are_never_up_for_long_and_named(tmp_path: Path) -> None:
    """One listens on IPv4 and another on IPv6, or both share the port: who answers is chance."""
    async with behind(("llama.cpp", "ollama"), tmp_path) as (port, watch):
        chance = Random(1)
        port.pick = lambda: chance.choice(("ollama", "llama.cpp"))
        watch.forget()
        for turn in range(16):
            await port.relay.drop()  # as slower polling does, which keeps no connection
            await watch.until(lambda turn=turn: len(watch.of("a")) > turn, "one turn more")
        assert Cause.CONFIG in {s.endpoints["a"].cause for _, s in watch.shown}, "the other one was met"
        assert "ollama answers here, not llama.cpp" in {r.result.evidence for r in watch.of("a")}
        assert Verdict.DOWN not in {s.endpoints["a"].verdict for _, s in watch.shown}


async def test_a_line_that_goes_dead_without_a_word_is_named_within_one_time_limit(tmp_path: Path) -> None:
    async with behind(("llama.cpp",), tmp_path) as (port, watch):
        port.relay.freeze()
        watch.forget()
        await watch.until(lambda: any(r.result.cause is Cause.TIMEOUT for r in watch.of("a")), "the first is lost")
        began = watch.began
        took = next(r.at.mono for r in watch.of("a") if r.result.cause is Cause.TIMEOUT) - began
        assert took < 1.0 + 0.1 + STARVED, "one interval and one time limit"
        await port.relay.thaw()
        await watch.until(lambda: watch.endpoint("a").verdict is Verdict.UP, "well again")


@pytest.mark.parametrize(
    "counters",
    [(900, 5, 6, 2, 3), (900, 800, 700, 600, 500), (7, 7, "NaN", 7, 8), (10**17, 3, 10**17, 4, 5)],
    ids=["resets", "backwards", "NaN between", "beyond all measure"],
)
async def test_counters_that_make_no_sense_are_no_fault_and_no_rate(
    counters: tuple[object, ...], tmp_path: Path
) -> None:
    texts = [f"vllm:num_requests_running 1\nvllm:generation_tokens_total {each}\n" for each in counters]
    replies = {**recorded("vllm"), "/metrics": [Reply(200, text) for text in texts for _ in range(2)]}
    async with listening(Canned(replies)) as port, watching(described(port), tmp_path) as watch:
        await watch.until(lambda: len(watch.of("a")) >= 12, "all of them were read")
        assert {r.result.cause for r in watch.of("a")} == {Cause.OK}
        rates = [s.tokens_per_s for s in watch.endpoint("a").samples]
        assert all(rate is None or 0 <= rate < 100 for rate in rates), rates
