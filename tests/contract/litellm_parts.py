"""LiteLLM's proxy with two models, `front` on llama.cpp and `dead` on nobody: the simulator's, and its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.lab import parts as lab
from tests.lab.parts import LlamaServer, free_port, tiny_gguf

KEY = "sk-contract"


@dataclass(frozen=True)
class Gateway:
    """Where the proxy is, and what can be seen behind it."""

    url: str
    asked: Callable[[str], int]
    """How often a route was asked for by GET."""
    prompted: Callable[[], Awaitable[float]]
    """Tokens that the engine behind `front` has made or read so far."""


class RealGateway(Gateway):
    """LiteLLM's own proxy before llama.cpp's own server."""

    @classmethod
    def start(cls, folder: Path, stack: ExitStack) -> Self:
        """Start both; `stack` ends them."""
        model = tiny_gguf(folder / "tiny.gguf")
        behind = stack.enter_context(LlamaServer(model, folder / "log", env={"MODEL_ALIAS": "m"}))
        bases = {"front": f"{behind.url}/v1", "dead": f"http://127.0.0.1:{free_port()}/v1"}
        models = [
            {"model_name": name, "litellm_params": {"model": "openai/m", "api_base": base, "api_key": "none"}}
            for name, base in bases.items()
        ]
        proxy = stack.enter_context(lab.LiteLlm(folder / "litellm", json.dumps({"model_list": models}), KEY))

        def asked(route: str) -> int:
            return proxy.log.read_text(errors="replace").count(f'"GET {route} HTTP/1.1"')

        async def prompted() -> float:
            return await tokens(behind.url)

        return cls(proxy.url, asked, prompted)


@asynccontextmanager
async def simulated_gateway(folder: Path) -> AsyncGenerator[Gateway, None]:
    """The simulator's."""
    sim = SimulatedCluster(folder / "sim", speed=100.0)
    behind = sim.add_endpoint("behind", LlamaCpp(sim.world, models=["m"], slots=2))
    dead = sim.add_endpoint("dead", LlamaCpp(sim.world, models=["m"]), state="stopped")
    deployments = [Deployment("front", "m", behind.server), Deployment("dead", "m", dead.server)]
    engine = LiteLlm(sim.world, deployments=deployments, api_key=KEY)
    proxy = sim.add_endpoint("proxy", engine)

    async def prompted() -> float:
        return await tokens(behind.server.url)

    async with sim:
        yield Gateway(proxy.server.url, lambda route: engine.requests[f"GET {route}"], prompted)


async def tokens(url: str) -> float:
    """Tokens read and made by a llama.cpp server; it counts them when an answer has ended."""
    async with asyncio.timeout(10), httpx.AsyncClient(verify=False) as client:
        lines = (await client.get(f"{url}/metrics")).text.splitlines()
    names = ("llamacpp:prompt_tokens_total ", "llamacpp:tokens_predicted_total ")
    return sum(float(line.split()[1]) for line in lines if line.startswith(names))
