"""LiteLLM's real proxy on what is rendered for it: every group answers, and what is dead is cooled down."""

from __future__ import annotations

import asyncio
import json
import urllib.error
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from backends.cluster.inventory import Inventory
from backends.cluster.reading import ModelInfo
from backends.gateway.render import Rendered, render
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.ollama import Ollama, OllamaModel
from tests.lab.parts import free_port, require
from tests.lab.process import Kept
from tests.lab.servers import LiteLlm, LlamaServer
from tests.lab.test_parts import post

KEY = "sk-lab-0000"
LIBRARY = [OllamaModel("chatty:8b", 4000.0, 5000.0), OllamaModel("nomic-embed-text", 260.0, 320.0, "nomic-bert")]


def inventory(llama: str, ollama: str) -> Inventory:
    """Real llama.cpp, an Ollama, and an engine that is dead, which code would rather have."""
    engines = [
        {"name": "a/llama", "engine": "llama.cpp", "url": llama, "tasks": ["chat", "code"], "model": "tiny"},
        {"name": "b/ollama", "engine": "ollama", "url": ollama, "tasks": ["chat", "embed"]},
        {"name": "c/dead", "engine": "llama.cpp", "url": f"http://127.0.0.1:{free_port()}", "tasks": ["code"]},
    ]
    told = {"version": 1, "name": "lab", "tiers": [{"name": "A"}], "router": {"code": ["c/dead", "a/llama"]}}
    return Inventory.model_validate(told | {"endpoints": [{"tier": "A", **e} for e in engines]})


async def ask(proxy: LiteLlm, route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer."""
    try:
        return 200, json.loads(await asyncio.to_thread(post, proxy.url + route, body, KEY))
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def prompt(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **more}


@asynccontextmanager
async def running(part: Kept) -> AsyncGenerator[None, None]:
    """A part that starts and ends without holding up the simulator."""
    try:
        await asyncio.to_thread(part.__enter__)
        yield
    finally:
        await asyncio.to_thread(part.close)


async def test_litellm_serves_every_group_that_is_rendered(tmp_path: Path, lab_model: Path) -> None:
    require("litellm")
    sim = SimulatedCluster(tmp_path / "sim", speed=100.0)
    ollama = sim.add_endpoint("ollama", Ollama(sim.world, library=LIBRARY, preload=["chatty:8b"]))
    server = LlamaServer(lab_model, tmp_path / "log")
    async with sim, running(server):
        infos = {"b/ollama": [ModelInfo(model.name) for model in LIBRARY]}
        rendered = render(inventory(server.url, ollama.server.url), infos)
        proxy = LiteLlm(tmp_path / "proxy", rendered.text, KEY)
        async with running(proxy):
            await _every_group(proxy, rendered)
            await _cooled_down(proxy)


async def _every_group(proxy: LiteLlm, rendered: Rendered) -> None:
    assert set(rendered.groups) == {"chat", "code", "embed", "tiny", "chatty:8b", "nomic-embed-text", "dead"}
    for group in rendered.groups:
        if group == "dead":
            continue
        if "embed" in group:
            status, answer = await ask(proxy, "/v1/embeddings", {"model": group, "input": "hi"})
            assert (status, bool(answer["data"])) == (200, True), (group, answer)
            continue
        status, answer = await ask(proxy, "/v1/chat/completions", prompt(group))
        assert status == 200, (group, answer)


async def _cooled_down(proxy: LiteLlm) -> None:
    """Two failed requests are enough, one of which was for a fallback's sake; then it says so at once."""
    await ask(proxy, "/v1/chat/completions", prompt("dead"))
    await ask(proxy, "/v1/chat/completions", prompt("dead"))
    status, answer = await ask(proxy, "/v1/chat/completions", prompt("dead"))
    assert (status, "No deployments available" in str(answer)) == (429, True), answer


async def test_litellms_own_default_cools_nothing_down(tmp_path: Path) -> None:
    """The trap that what is rendered avoids, and that `gateway lint` names."""
    require("litellm")
    text = render(inventory("http://127.0.0.1:9", "http://127.0.0.1:9"), {}).text
    assert "allowed_fails: 1\n" in text
    proxy = LiteLlm(tmp_path / "proxy", text.replace("allowed_fails: 1\n", "allowed_fails: 3\n"), KEY)
    async with running(proxy):
        for _ in range(5):
            status, answer = await ask(proxy, "/v1/chat/completions", prompt("dead"))
            assert (status, "No deployments available" in str(answer)) == (500, False), answer
