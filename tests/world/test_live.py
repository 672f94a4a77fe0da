"""The whole of it on the demo's cluster: what is seen, how soon, and that looking changes nothing there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import tomli_w

from backends.cluster.engines import ENGINES
from backends.cluster.files import load, parse
from backends.cluster.reading import EndpointReading, GpuReading, WorkloadReading
from backends.cluster.words import Cause, State, Verdict
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.lmstudio import LmStudio
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.router import LlamaRouter
from backends.simulator.engines.sglang import SgLang
from backends.simulator.engines.vllm import Vllm
from backends.sources import MACHINE_INTERVAL
from backends.world import survey
from tests.world.watching import Watch, measuring, until, watching

INTERVAL = 0.3
MARKS = tuple(f"remote/mark-{number}" for number in ("i", "ii", "iii", "iv", "v"))


@pytest.fixture
def described(tmp_path: Path, request: pytest.FixtureRequest) -> SimulatedCluster:
    """The demo's cluster, not yet running, its story told a hundred times too fast, or as a test's parameter says."""
    sim = demo(tmp_path / "sim", speed=getattr(request, "param", 100.0), tokens_per_second=400.0)
    sim.extra["defaults"] = {"interval": f"{INTERVAL}s", "timeout": "2s"}
    return sim


@pytest.fixture
async def sim(described: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    async with described:
        for name, value in described.secrets.items():
            monkeypatch.setenv(name, value)
        yield described


async def healthy(watch: Watch) -> None:
    def well() -> bool:
        nodes = watch.snapshot.nodes
        known = len(nodes["mark"].workloads) == 5 and bool(nodes["mark"].gpus) and bool(nodes["desk"].gpus)
        return known and watch.snapshot.prognosis.state is State.HEALTHY

    await watch.until(well, "all is healthy")


async def test_one_look_sees_all_of_the_demo(sim: SimulatedCluster, tmp_path: Path) -> None:
    snapshot = await survey(load(sim.inventory_path), None, tmp_path / "state")
    assert snapshot.prognosis.state is State.HEALTHY
    assert {tier.name: (tier.state, tier.up) for tier in snapshot.tiers} == {
        "LOCAL": (State.HEALTHY, 1), "REMOTE": (State.HEALTHY, 5), "NAS": (State.HEALTHY, 1),
        "GATEWAY": (State.HEALTHY, 1),
    }  # fmt: skip
    assert all(outlook.now for outlook in snapshot.prognosis.tasks.values())
    for node in snapshot.nodes.values():
        assert (node.reach_trouble, node.workloads_trouble, node.gpus_trouble) == (None, None, None)
    mark = snapshot.nodes["mark"]
    (gpu,) = mark.gpus
    assert (gpu.name, gpu.memory_total_mib) == ("NVIDIA GeForce RTX 3090", 24576)
    assert gpu.memory_used_mib == pytest.approx(23718, abs=20)
    assert {w.name: (w.state, w.gpu) for w in mark.workloads} == {
        name.removeprefix("remote/"): ("running", True) for name in MARKS
    }
    assert {p.container for p in gpu.processes or ()} == {w.id for w in mark.workloads}
    assert {w.name: w.gpu for w in snapshot.nodes["nas"].workloads} == {"coder": False, "pihole": False}
    assert [w.name for w in snapshot.nodes["desk"].workloads] == ["ollama"]
    assert len(snapshot.endpoints["local/ollama"].models) == 3


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_stopped_container_is_down_and_refused_within_one_interval(
    sim: SimulatedCluster, tmp_path: Path, end: str
) -> None:
    container = sim.nodes["mark"].container("mark-iii")
    container.started = time.time() - 3600
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        async with measuring(sim.endpoints["nas/coder"].server.port, INTERVAL) as yardstick:
            watch.forget()
            await (container.kill() if end == "kill" else container.stop())
            took, snapshot = await watch.shows(lambda s: s.endpoints["remote/mark-iii"].verdict is Verdict.DOWN, "down")
            assert took < INTERVAL + 0.5 + yardstick.late
        state = snapshot.endpoints["remote/mark-iii"]
        assert state.cause is Cause.REFUSED
        assert state.evidence.startswith("connect refused by 127.0.0.1:")
        assert {tier.name: tier.state for tier in snapshot.tiers}["REMOTE"] is State.DEGRADED
        assert snapshot.prognosis.tasks["code"].now == "nas/coder"
        assert "REMOTE is DEGRADED" in snapshot.prognosis.summary
        looked = await watch.world.look()
        assert looked.endpoints["remote/mark-iii"].cause is Cause.REFUSED


async def test_one_stopped_inside_its_start_window_is_down_as_soon_as_its_node_was_looked_at(
    sim: SimulatedCluster, tmp_path: Path
) -> None:
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        async with measuring(sim.endpoints["nas/coder"].server.port, INTERVAL) as yardstick:
            watch.forget()
            await sim.nodes["mark"].container("mark-iii").kill()
            took, snapshot = await watch.shows(lambda s: s.endpoints["remote/mark-iii"].verdict is Verdict.DOWN, "down")
            assert took < MACHINE_INTERVAL + INTERVAL + 0.5 + yardstick.late
        assert snapshot.endpoints["remote/mark-iii"].cause is Cause.REFUSED
        causes = {s.endpoints["remote/mark-iii"].cause for at, s in watch.shown}
        assert causes <= {Cause.OK, Cause.LOADING, Cause.REFUSED}


async def test_what_starts_is_asked_at_its_interval(tmp_path: Path) -> None:
    """Only who is DOWN is asked less and less; vLLM listens no sooner than it is ready, and is LOADING until then."""
    sim = SimulatedCluster(tmp_path / "sim", speed=10.0)
    sim.extra["defaults"] = {"interval": "50ms"}
    sim.add_node("box", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
    sim.add_endpoint(
        "vllm", Vllm(sim.world, models=["m"]), node="box", container="v", gpu=0, load_s=1e6, state="starting"
    )
    async with sim, watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: watch.endpoint("vllm").cause is Cause.LOADING, "it loads")
        watch.forget()
        await watch.until(lambda: len(watch.of("vllm")) >= 10, "ten rounds")
        assert {reading.interval for reading in watch.of("vllm")} == {0.05}
        assert watch.endpoint("vllm").cause is Cause.LOADING


async def test_what_was_down_for_long_is_asked_at_its_interval_again_once_it_starts(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path / "sim", speed=10.0)
    sim.extra["defaults"] = {"interval": "50ms", "down_after": 1}
    sim.add_node("box", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
    sim.add_endpoint("vllm", Vllm(sim.world, models=["m"]), node="box", container="v", gpu=0, load_s=1e6)
    async with sim, watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: watch.endpoint("vllm").cause is Cause.OK, "it serves")
        container = sim.nodes["box"].container("v")
        await container.kill()
        await watch.until(lambda: watch.of("vllm")[-1].interval > 6, "it is asked seldom")
        container.start()
        await watch.until(lambda: watch.endpoint("vllm").cause is Cause.LOADING, "it loads")
        watch.forget()
        await watch.until(lambda: len(watch.of("vllm")) >= 10, "ten rounds", seconds=5)
        assert {reading.interval for reading in watch.of("vllm")} == {0.05}


@pytest.mark.parametrize("described", [10.0], indirect=True, ids=["slow enough for all to meet"])
async def test_all_that_start_at_once_deadlock_and_stay_loading(sim: SimulatedCluster, tmp_path: Path) -> None:
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        await sim.inflict(next(f for f in sim.faults if f.id == "deadlock-mark"))
        await until(lambda: all(sim.endpoints[name].program.hung for name in MARKS), "all of mark hang")
        assert sim.nodes["mark"].host.cuda.deadlocks > 0
        watch.nudge("mark")
        await watch.until(lambda: all(watch.endpoint(n).cause is Cause.LOADING for n in MARKS), "all of mark load")
        for _ in range(3):
            watch.forget()
            watch.nudge("mark")
            await watch.until(lambda: all(watch.of(n) for n in MARKS), "all are asked again")
        assert {watch.endpoint(name).cause for name in MARKS} == {Cause.LOADING}
        assert {watch.endpoint(name).verdict for name in MARKS} == {Verdict.DEGRADED}
        assert {tier.name: tier.state for tier in watch.snapshot.tiers}["REMOTE"] is State.DEGRADED
        assert watch.endpoint("local/ollama").verdict is Verdict.UP
        assert {sim.endpoints[name].program.hung for name in MARKS} == {True}
        looked = await watch.world.look()
        assert {looked.endpoints[name].cause for name in MARKS} == {Cause.LOADING}


async def test_a_nudge_asks_at_once(described: SimulatedCluster, tmp_path: Path) -> None:
    described.extra["defaults"] = {"interval": "1h"}
    async with described, watching(load(described.inventory_path), tmp_path / "state") as watch:
        ends = tuple(described.endpoints)
        await watch.until(lambda: all(watch.of(name) for name in ends), "all were asked once")
        await watch.until(lambda: watch.node("mark").gpus and watch.node("mark").workloads, "mark was looked at")

        def asked() -> set[str]:
            return {r.endpoint for r in watch.readings if isinstance(r, EndpointReading)}

        watch.forget()
        assert watch.nudge("remote/mark-i") == 1
        await watch.until(asked, "it was asked", seconds=2)
        assert asked() == {"remote/mark-i"}
        watch.forget()
        assert watch.nudge("mark") == 5 + 3, "its endpoints, its containers, its GPUs, its facts"
        await watch.until(lambda: asked() == set(MARKS), "all of mark were asked", seconds=2)
        await watch.until(lambda: any(isinstance(r, WorkloadReading) for r in watch.readings), "and mark itself")
        watch.forget()
        assert watch.nudge() == len(ends) + 4 + 2 + 1 + 4, "endpoints, machines, GPU streams, procedures, facts"
        await watch.until(lambda: asked() == set(ends), "all were asked", seconds=2)
        assert watch.nudge("nobody") == 0


async def test_gpus_tell_by_themselves(sim: SimulatedCluster, tmp_path: Path) -> None:
    """One process a node streams its figures; nobody asks again."""
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(
            lambda: len([r for r in watch.readings if isinstance(r, GpuReading) and r.node == "mark"]) >= 3,
            "three samples of mark",
        )
        queries = [line for line in sim.nodes["mark"].commands.ran if "--query-gpu" in line]
        assert len(queries) == 2
        assert [" -l " in line for line in queries] == [False, True]


POLLS = 30
"""How often each endpoint is probed at least while nothing may be loaded; each fifth probe looks deep."""


class Sleepers:
    """Everything that loads, wakes or costs when it is asked the wrong thing."""

    def __init__(self, folder: Path) -> None:
        self.sim = sim = SimulatedCluster(folder, speed=500.0)
        self.router = LlamaRouter(sim.world, models=["small", "large"])
        self.asleep = LlamaCpp(sim.world, models=["m"], sleep_after=20.0)
        self.awake = LlamaCpp(sim.world, models=["m"])
        library = [OllamaModel("big:32b"), OllamaModel("small:1b")]
        self.ollama = Ollama(sim.world, library=library, preload=["small:1b"])
        self.studio = LmStudio(sim.world, models=["a", "b"], loaded=["a"])
        self.sim.add_node("box", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
        behind = sim.add_endpoint("awake", self.awake, node="box", container="awake", gpu=0, vram_mib=4000)
        self.gateway = LiteLlm(sim.world, deployments=[Deployment("front", "m", behind.server)])
        sim.add_endpoint("asleep", self.asleep, node="box", container="asleep", gpu=0, vram_mib=4000)
        sim.add_endpoint("router", self.router, node="box", container="router", gpu=0)
        sim.add_endpoint("ollama", self.ollama, node="box", container="ollama", gpu=0)
        sim.add_endpoint("studio", self.studio, node="box")
        sim.add_endpoint("vllm", Vllm(sim.world, models=["m"]), node="box")
        sim.add_endpoint("sglang", SgLang(sim.world, models=["m"]), node="box")
        sim.add_endpoint("gateway", self.gateway)

    def inventory(self) -> str:
        """Each endpoint as it is, the routers' models by name, and both of them taken for every other engine."""
        wanted: dict[str, tuple[str, str, str | None]] = {
            name: (end.engine.kind, name, None) for name, end in self.sim.endpoints.items()
        }
        wanted |= {"router large": ("llama.cpp", "router", "large"), "ollama big": ("ollama", "ollama", "big:32b")}
        for kind in ENGINES:
            for name in ("router", "ollama", "asleep"):
                wanted.setdefault(f"{name} as {kind}", (kind, name, None))
        ends = [
            {"name": name, "tier": "T", "engine": kind, "url": self.sim.endpoints[there].server.url}
            | ({"model": model} if model else {})
            for name, (kind, there, model) in wanted.items()
        ]
        defaults = {"interval": "20ms", "timeout": "2s"}
        return tomli_w.dumps(
            {"version": 1, "name": "sleepers", "defaults": defaults, "tiers": [{"name": "T"}], "endpoints": ends}
        )

    async def loaded(self) -> dict[str, str]:
        """When Ollama will unload what."""
        async with httpx.AsyncClient() as client:
            models = (await client.get(self.sim.endpoints["ollama"].server.url + "/api/ps")).json()["models"]
        return {model["name"]: model["expires_at"] for model in models}


async def test_no_probe_ever_loads_wakes_or_prompts_anything(tmp_path: Path) -> None:
    """Polled a hundred times too fast, under the right and under every wrong name of its engine."""
    sleepers = Sleepers(tmp_path / "sim")
    async with sleepers.sim as sim:
        await until(lambda: sleepers.asleep.sleeping, "one has fallen asleep")
        loaded, vram = await sleepers.loaded(), sim.nodes["box"].host.gpus[0].used_mib
        async with watching(parse(sleepers.inventory(), sim.inventory_path), tmp_path / "state") as watch:
            await watch.until(lambda: all(len(watch.of(n)) >= POLLS for n in sim.endpoints), "many polls", seconds=60)
            watch.nudge()
            await watch.world.look()
            assert watch.endpoint("router").cause is Cause.SLEEPING
            assert watch.endpoint("router large").cause is Cause.SLEEPING
            assert watch.endpoint("ollama big").cause is Cause.SLEEPING
            assert watch.endpoint("asleep").cause is Cause.SLEEPING
            assert watch.endpoint("gateway").cause is Cause.OK
            assert watch.endpoint("router as ollama").cause is Cause.CONFIG
        assert await sleepers.loaded() == loaded
        assert sim.nodes["box"].host.gpus[0].used_mib == vram
        assert not sleepers.router.loads
        assert (sleepers.asleep.sleeping, sleepers.asleep.wakings) == (True, 0)
        assert (sleepers.ollama.loaded, sleepers.ollama.loads) == (("small:1b",), 0)
        for name, end in sim.endpoints.items():
            asked = set(end.engine.requests)
            assert {route.split()[0] for route in asked} <= {"GET", "HEAD"}, name
            assert not asked & {"GET /slots", "GET /health_generate"}, name
        assert sleepers.gateway.requests["GET /health"] == 0
        assert sleepers.gateway.requests["GET /health/liveliness"] >= POLLS
        assert sleepers.awake.requests["GET /metrics"] > 0
        assert sleepers.asleep.requests["GET /metrics"] == 0
