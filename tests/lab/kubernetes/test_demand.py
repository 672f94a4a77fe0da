"""Models on demand before a real scheduler: one comes in the place of another, and goes when it is idle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from tests.cli.driving import started
from tests.kubernetes.deploying import serving
from tests.kubernetes.test_demand import NAMES, environment, inventory, up_in_the_place_of_two
from tests.lab.kubernetes.control import ADDRESS
from tests.lab.kubernetes.kubelets import Nodes
from tests.lab.kubernetes.test_queue import replicas
from tests.procedures.test_process import until

RUNNING = ("one", "two", "always")


async def vllm(request: web.Request) -> web.StreamResponse:
    """One with nothing to do."""
    if request.path == "/v1/models":
        return web.json_response({"object": "list", "data": [{"id": "model", "object": "model"}]})
    if request.path == "/metrics":
        return web.Response(text="vllm:num_requests_running 0\nvllm:generation_tokens_total 7\n")
    return web.Response(text="")


@pytest.fixture
async def state(nodes: Nodes, kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Path]:
    """Three of four run, on a node of three GPUs."""
    await nodes.add_node("gpu-1", 3)
    text = inventory(kubeconfig).replace("5s", "20s")
    async with AsyncExitStack() as stack:
        for name in NAMES:
            port = await stack.enter_async_context(serving(vllm, ADDRESS))
            await nodes.add_deployment(name, int(name in RUNNING), port=port)
            text = text.replace(f"http://{name}.llm:8000", f"http://{name}.llm:{port}")
        (tmp_path / "cluster.toml").write_text(text)
        await until(lambda: len([e for e in nodes.started if e[0] == "ready"]) == len(RUNNING), "three to run")
        yield tmp_path


async def running(nodes: Nodes) -> list[str]:
    return sorted([name for name in NAMES if await replicas(nodes, name)])


async def test_up_scales_to_one_in_the_place_of_the_least_recently_used(nodes: Nodes, state: Path) -> None:
    await up_in_the_place_of_two(state)
    assert await running(nodes) == ["always", "new", "one"]


async def test_a_watch_scales_what_is_idle_back_to_none(nodes: Nodes, state: Path) -> None:
    async with started("watch", "--json", env=environment(state)):
        await until(lambda: ("gone", "one") in nodes.started, "one to be scaled down")
    assert await running(nodes) == ["always", "two"]
