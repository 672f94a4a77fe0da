"""What only the simulated engines' own state shows: loads, wakings, wedges, what is counted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.lmstudio import LmStudio
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.openai import OpenAi, PlainHttp
from backends.simulator.engines.router import LlamaRouter
from backends.simulator.engines.sglang import SgLang
from backends.simulator.engines.vllm import Vllm
from tests.simulator.conftest import until

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def sim(tmp_path: Path) -> SimulatedCluster:
    return SimulatedCluster(tmp_path, speed=500)


def add_gpu_node(sim: SimulatedCluster) -> None:
    sim.add_node("box", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])


async def test_router_loads_when_merely_asked(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    add_gpu_node(sim)
    router = LlamaRouter(sim.world, models=["small", "large"])
    endpoint = sim.add_endpoint("r", router, node="box", container="r", gpu=0, load_s=0.1)
    async with sim:
        url, gpu = endpoint.server.url, sim.nodes["box"].host.gpus[0]
        for route in ("/models", "/v1/models", "/health", "/props"):
            assert (await client.get(url + route)).status_code == 200
        assert (await client.get(url + "/props?model=small&autoload=false")).status_code == 400
        assert not router.loads
        assert (await client.get(url + "/props?model=small")).status_code == 200
        assert router.loads == {"small": 1}
        assert gpu.used_mib > 4400
        statuses = {m["id"]: m["status"]["value"] for m in (await client.get(url + "/models")).json()["data"]}
        assert statuses == {"small": "loaded", "large": "unloaded"}
        router.fall_asleep("small")
        assert (await client.get(url + "/props?model=small&autoload=false")).status_code == 200
        assert router.loads == {"small": 2}
        assert (await client.post(url + "/models/unload", json={"model": "small"})).json() == {"success": True}
        answer = await client.post(url + "/v1/chat/completions", json={"model": "large", **HI})
        assert answer.json()["model"] == "large"
        router.failing.add("small")
        await client.post(url + "/models/load", json={"model": "small"})
        await until(lambda: router.statuses["small"] == "failed")
        status = (await client.get(url + "/models")).json()["data"][0]["status"]
        assert (status["failed"], status["exit_code"]) == (True, 1)
        assert router.seen[-1] == "GET /models"


async def test_slots_wake_a_sleeper_and_health_does_not(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    add_gpu_node(sim)
    engine = LlamaCpp(sim.world, models=["m"], sleep_after=60.0)
    endpoint = sim.add_endpoint("a", engine, node="box", container="a", gpu=0, vram_mib=4000)
    async with sim:
        await until(lambda: engine.sleeping)
        await until(lambda: sim.nodes["box"].host.gpus[0].used_mib < 1000)
        for route in ("/health", "/props", "/v1/models", "/metrics"):
            assert (await client.get(endpoint.server.url + route)).status_code == 200
        assert (engine.sleeping, engine.wakings) == (True, 0)
        assert (await client.get(endpoint.server.url + "/props")).json()["is_sleeping"] is True
        await client.get(endpoint.server.url + "/slots")
        assert (engine.wakings, sim.nodes["box"].host.gpus[0].used_mib > 3900) == (1, True)


async def test_switched_off_routes(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    endpoint = sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"], metrics=False, slots_route=False))
    async with sim:
        for route in ("/slots", "/metrics"):
            assert (await client.get(endpoint.server.url + route)).status_code == 501


async def test_ollama_loads_unloads_and_expires(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    add_gpu_node(sim)
    library = [OllamaModel("big:32b", vram_mib=20000), OllamaModel("other:8b", vram_mib=6000)]
    engine = Ollama(sim.world, library=library, preload=["big:32b"])
    endpoint = sim.add_endpoint("o", engine, node="box", service="ollama", gpu=0)
    async with sim:
        url, gpu = endpoint.server.url, sim.nodes["box"].host.gpus[0]
        (loaded,) = (await client.get(url + "/api/ps")).json()["models"]
        assert loaded["size_vram"] == loaded["size"] > 0
        assert gpu.used_mib == pytest.approx(20012)
        answer = await client.post(url + "/api/chat", json={"model": "other:8b", "stream": False, **HI})
        assert answer.json()["done"] is True
        assert set(engine.loaded) == {"other:8b"}
        await client.post(url + "/api/generate", json={"model": "other:8b", "keep_alive": 0})
        assert not engine.loaded
        await client.post(url + "/api/generate", json={"model": "other:8b", "keep_alive": "0.05s"})
        await until(lambda: engine.loads == 2 and not engine.loaded)


async def test_who_gives_up_during_a_load_aborts_it(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    add_gpu_node(sim)
    engine = Ollama(sim.world, library=[OllamaModel("m:1b", load_s=1e6)])
    endpoint = sim.add_endpoint("o", engine, node="box", service="ollama", gpu=0)
    async with sim:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(endpoint.server.url + "/api/generate", json={"model": "m:1b"}, timeout=0.1)
        await until(lambda: engine.aborted_loads == 1)
        assert not engine.loaded
        await until(lambda: sim.nodes["box"].host.gpus[0].used_mib < 20)


async def test_ollama_on_the_cpu_says_so(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    endpoint = sim.add_endpoint("o", Ollama(sim.world, library=[OllamaModel("m:1b")], preload=["m:1b"]))
    async with sim:
        assert (await client.get(endpoint.server.url + "/api/ps")).json()["models"][0]["size_vram"] == 0


async def test_a_wedged_vllm_looks_healthy(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    engine = Vllm(sim.world, models=["m"])
    endpoint = sim.add_endpoint("v", engine)
    async with sim:
        url = endpoint.server.url
        await client.post(url + "/v1/chat/completions", json={"model": "m", **HI})
        engine.wedged = True
        pending = asyncio.create_task(client.post(url + "/v1/chat/completions", json={"model": "m", **HI}))
        await until(lambda: engine.running == 1)
        first, second = [(await client.get(url + "/metrics")).text for _ in range(2)]
        assert first == second
        assert 'vllm:num_requests_running{engine="0",model_name="m"} 0.0' in first
        assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 1.0' in first
        assert 'vllm:generation_tokens_total{engine="0",model_name="m"} 48.0' in first
        assert (await client.get(url + "/health")).status_code == 200
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)


async def test_tokens_come_at_their_rate_and_stop_with_the_reader(tmp_path: Path, client: httpx.AsyncClient) -> None:
    sim = SimulatedCluster(tmp_path, speed=1.0)
    engine = LlamaCpp(sim.world, models=["m"], tokens_per_second=200, answer_tokens=20, slots=1)
    endpoint = sim.add_endpoint("a", engine)
    async with sim:
        url = endpoint.server.url + "/v1/chat/completions"
        loop = asyncio.get_running_loop()
        begun = loop.time()
        whole = (await client.post(url, json=HI)).json()
        assert loop.time() - begun >= 0.1
        assert whole["usage"]["completion_tokens"] == 20
        async with client.stream("POST", url, json={**HI, "stream": True}) as answer:
            await anext(answer.aiter_lines())
        await until(lambda: engine.running == 0)
        assert engine.abandoned == 1
        assert engine.predicted_tokens < 40
        assert engine.requests == {"POST /v1/chat/completions": 2}


async def test_litellm_forwards_cools_down_and_its_health_is_slow(
    sim: SimulatedCluster, client: httpx.AsyncClient
) -> None:
    behind = sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"], api_key="secret"))
    gateway = LiteLlm(
        sim.world,
        deployments=[Deployment("front", "m", behind.server, api_key="secret")],
        api_key="sk-1",
        health_s=100.0,
    )
    endpoint = sim.add_endpoint("g", gateway)
    async with sim:
        url, headers = endpoint.server.url, {"Authorization": "Bearer sk-1"}
        body = {"model": "front", "stream": True, "stream_options": {"include_usage": True}, **HI}
        answer = await client.post(url + "/v1/chat/completions", json=body, headers=headers)
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        words = [c["choices"][0]["delta"].get("content", "") for c in map(json.loads, events[:-2])]
        assert len([word for word in words if word]) == 48
        assert json.loads(events[-2])["usage"]["completion_tokens"] == 48
        assert behind.engine.requests == {"POST /v1/chat/completions": 1}
        with pytest.raises(httpx.ReadTimeout):
            await client.get(url + "/health", headers=headers, timeout=0.1)
        assert gateway.requests["GET /health"] == 1
        gateway.cooling["front"] = 4e9
        cooling = await client.post(url + "/v1/chat/completions", json=body, headers=headers)
        assert cooling.status_code == 429
        gateway.cooling.clear()
        await behind.stop()
        dead = await client.post(url + "/v1/chat/completions", json=body, headers=headers)
        assert (dead.status_code, "Connection error" in dead.text) == (500, True)


async def test_the_smaller_engines(sim: SimulatedCluster, client: httpx.AsyncClient) -> None:
    studio = sim.add_endpoint("l", LmStudio(sim.world, models=["a", "b"], loaded=["a"]))
    sglang = sim.add_endpoint("s", SgLang(sim.world, models=["m"]))
    other = sim.add_endpoint("o", OpenAi(sim.world, models=["m"], api_key="k"))
    page = sim.add_endpoint("p", PlainHttp(sim.world, page="<h1>hello</h1>"))
    async with sim:
        models = (await client.get(studio.server.url + "/api/v0/models")).json()["data"]
        assert [m["state"] for m in models] == ["loaded", "not-loaded"]
        assert (await client.get(sglang.server.url + "/health")).content == b""
        assert (await client.get(sglang.server.url + "/get_model_info")).json()["is_generation"] is True
        assert "sglang:token_usage" in (await client.get(sglang.server.url + "/metrics")).text
        assert (await client.get(other.server.url + "/v1/models")).status_code == 401
        allowed = await client.get(other.server.url + "/v1/models", headers={"Authorization": "Bearer k"})
        assert allowed.json()["data"][0]["id"] == "m"
        assert "hello" in (await client.get(page.server.url)).text
        for endpoint in (sglang, other, page):
            assert (await client.get(endpoint.server.url + "/api/tags")).status_code == 404
