"""One token, asked for only where the inventory allows it and only of a model that is loaded already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.cluster.engines import EngineName
from backends.cluster.files import parse
from backends.cluster.reading import ModelInfo, ProbeResult, Progress
from backends.cluster.words import Cause, Verdict
from backends.engines.canary import loaded_model
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.base import Engine
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.router import LlamaRouter
from backends.simulator.engines.vllm import Vllm
from tests.world.watching import watching

MODELS = (ModelInfo("cold", loaded=False), ModelInfo("warm", loaded=True))
WELL = ProbeResult(Cause.OK, "answered", models=MODELS)


@pytest.mark.parametrize(
    ("engine", "found", "model"),
    [
        ("ollama", WELL, "warm"),
        ("ollama", replace(WELL, models=MODELS[:1]), None),
        ("ollama", replace(WELL, models=(ModelInfo("m"),)), None),
        ("vllm", replace(WELL, models=(ModelInfo("m"),)), "m"),
        ("vllm", replace(WELL, cause=Cause.SLEEPING, models=(ModelInfo("m"),)), None),
        ("llama.cpp", replace(WELL, cause=Cause.SLEEPING), None),
        ("llama.cpp", replace(WELL, cause=Cause.BUSY), None),
        ("llama.cpp", replace(WELL, progress=Progress(tokens=5, running=1, waiting=0)), None),
        ("llama.cpp", replace(WELL, progress=Progress(tokens=5, running=0, waiting=0)), "warm"),
        ("litellm", replace(WELL, models=(ModelInfo("m"),)), None),
    ],
)
def test_who_can_be_asked(engine: EngineName, found: ProbeResult, model: str | None) -> None:
    assert loaded_model(engine, found) == model


def told(sim: SimulatedCluster, canary: str) -> str:
    text = sim.inventory.replace('name = "a"', f'name = "a"\ntimeout = "400ms"\n{canary}')
    assert canary in text
    return text


async def test_what_says_it_is_well_and_gives_no_token_is_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.engines.canary.LIMIT", 0.3)
    sim = SimulatedCluster(tmp_path / "sim")
    sim.extra = {"defaults": {"interval": "0.1s"}}
    endpoint = sim.add_endpoint("a", Vllm(sim.world, models=["m"], tokens_per_second=500.0))
    async with sim, watching(parse(told(sim, 'canary = "100ms"'), sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: endpoint.engine.requests["POST /v1/chat/completions"] >= 3, "it sings")
        await watch.until(lambda: watch.endpoint("a").cause is Cause.OK, "it is well")
        endpoint.engine.wedged = True
        await watch.until(lambda: watch.endpoint("a").verdict is Verdict.DOWN, "it is mute")
        assert watch.endpoint("a").cause is Cause.STALLED
        assert "m was asked for one token" in watch.endpoint("a").evidence
        endpoint.engine.wedged = False
        await watch.until(lambda: watch.endpoint("a").verdict is Verdict.UP, "it sings again")


UNLOADED: dict[str, Callable[[SimulatedCluster], Engine]] = {
    "ollama": lambda sim: Ollama(sim.world, library=[OllamaModel("m:1b")]),
    "router": lambda sim: LlamaRouter(sim.world, models=["m"]),
    "asleep": lambda sim: LlamaCpp(sim.world, models=["m"], sleep_after=0.05),
}


@pytest.mark.parametrize("kind", UNLOADED)
@pytest.mark.parametrize("canary", ['canary = "100ms"', ""])
async def test_what_is_not_loaded_is_never_asked_and_nobody_unasked(kind: str, canary: str, tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path / "sim")
    sim.extra = {"defaults": {"interval": "0.1s"}}
    endpoint = sim.add_endpoint("a", UNLOADED[kind](sim))
    async with sim, watching(parse(told(sim, canary), sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: watch.endpoint("a").cause is Cause.SLEEPING, "it sleeps")
        before = sum(n for route, n in endpoint.engine.requests.items() if route.startswith("POST /"))
        watch.forget()
        await watch.until(lambda: len(watch.of("a")) >= 15, "fifteen looks more")
        assert watch.endpoint("a").cause is Cause.SLEEPING
        assert sum(n for route, n in endpoint.engine.requests.items() if route.startswith("POST /")) == before
