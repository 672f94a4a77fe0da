"""Every way an HTTP address can fail, seen through httpx."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.simulator.cluster import SimEndpoint, SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.httpfaults import HttpFault, Kind
from tests.simulator.conftest import until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[SimEndpoint]:
    sim = SimulatedCluster(tmp_path, speed=100)
    endpoint = sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"], answer_tokens=6))
    async with sim:
        yield endpoint


async def lines(client: httpx.AsyncClient, endpoint: SimEndpoint) -> list[str]:
    seen = []
    async with client.stream("POST", endpoint.server.url + "/v1/chat/completions", json=CHAT) as answer:
        async for line in answer.aiter_lines():
            if line:
                seen.append(line)
    return seen


async def test_refused_while_stopped_and_under_a_fault(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    url = endpoint.server.url + "/health"
    for cut, mend in (
        (endpoint.server.close, endpoint.server.open),
        (lambda: endpoint.server.inflict(HttpFault("refuse")), endpoint.server.heal),
    ):
        assert (await client.get(url)).status_code == 200
        await cut()
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await client.get(url)
        await mend()
        assert (await client.get(url)).status_code == 200


@pytest.mark.parametrize(("kind", "expected"), [("black_hole", httpx.ConnectTimeout), ("half_open", httpx.ReadTimeout)])
async def test_silence(endpoint: SimEndpoint, kind: Kind, expected: type[Exception]) -> None:
    url = endpoint.server.url + "/health"
    async with httpx.AsyncClient(timeout=0.1) as warm:
        await warm.get(url)
        await endpoint.server.inflict(HttpFault(kind))
        with pytest.raises(httpx.ReadTimeout):
            await warm.get(url)  # the connection it has stays open, and nobody answers on it
        with pytest.raises(expected):
            await warm.get(url)
        await endpoint.server.heal()
        assert (await warm.get(url)).status_code == 200


async def test_garbage_instead_of_tls(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    await endpoint.server.inflict(HttpFault("tls_broken"))
    with pytest.raises(httpx.ConnectError, match="SSL"):
        await client.get(endpoint.server.url.replace("http:", "https:"))


async def test_drip_is_one_byte_at_a_time(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    await endpoint.server.inflict(HttpFault("drip", seconds=0.001))
    received = 0
    async with client.stream("GET", endpoint.server.url + "/health") as answer:
        async for chunk in answer.aiter_raw():
            assert len(chunk) == 1
            received += 1
            if received == 3:
                break


async def test_reset_in_mid_answer(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    await endpoint.server.inflict(HttpFault("reset"))
    with pytest.raises(httpx.ReadError):
        await client.get(endpoint.server.url + "/health")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_status(endpoint: SimEndpoint, client: httpx.AsyncClient, status: int) -> None:
    await endpoint.server.inflict(HttpFault("status", status=status, retry_after=7))
    answer = await client.get(endpoint.server.url + "/health")
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")


async def test_wrong_contents(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    url = endpoint.server.url + "/health"
    await endpoint.server.inflict(HttpFault("not_json"))
    assert (await client.get(url)).headers["content-type"].startswith("text/html")
    await endpoint.server.inflict(HttpFault("wrong_json"))
    assert isinstance((await client.get(url)).json(), list)
    await endpoint.server.inflict(HttpFault("redirect"))
    assert (await client.get(url)).is_redirect


async def test_huge_answers_are_made_as_they_are_read(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    await endpoint.server.inflict(HttpFault("huge"))
    received = 0
    async with client.stream("GET", endpoint.server.url + "/health") as answer:
        async for chunk in answer.aiter_bytes():
            received += len(chunk)
            if received > 4 << 20:
                break
    await endpoint.server.heal()
    assert (await client.get(endpoint.server.url + "/health")).status_code == 200


async def test_a_fault_can_be_limited_to_routes(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    await endpoint.server.inflict(HttpFault("status", status=500, under="/metrics"))
    assert (await client.get(endpoint.server.url + "/health")).status_code == 200
    assert (await client.get(endpoint.server.url + "/metrics")).status_code == 500


async def test_slow(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    await endpoint.server.inflict(HttpFault("slow", seconds=0.05))
    answer = await client.get(endpoint.server.url + "/health")
    assert answer.elapsed.total_seconds() >= 0.05
    assert answer.json() == {"status": "ok"}


async def test_streams_that_break(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    assert (await lines(client, endpoint))[-1] == "data: [DONE]"
    await endpoint.server.inflict(HttpFault("garbage_stream"))
    assert any("{broken" in line for line in await lines(client, endpoint))
    await endpoint.server.inflict(HttpFault("error_in_200"))
    (only,) = await lines(client, endpoint)
    assert "error" in json.loads(only.removeprefix("data: "))
    await endpoint.server.inflict(HttpFault("cut_stream"))
    with pytest.raises(httpx.RemoteProtocolError):
        await lines(client, endpoint)
    await endpoint.server.inflict(HttpFault("stop_in_mid_stream"))
    with pytest.raises(httpx.ReadTimeout):
        async with httpx.AsyncClient(timeout=0.1) as hasty:
            await lines(hasty, endpoint)
    assert (await client.get(endpoint.server.url + "/health")).status_code == 200


async def test_an_endless_stream_ends_when_its_reader_leaves(endpoint: SimEndpoint, client: httpx.AsyncClient) -> None:
    await endpoint.server.inflict(HttpFault("endless_stream"))
    seen = 0
    async with client.stream("POST", endpoint.server.url + "/v1/chat/completions", json=CHAT) as answer:
        async for _ in answer.aiter_lines():
            seen += 1
            if seen > 100:
                break
    await until(lambda: endpoint.engine.running == 0)
    assert endpoint.engine.abandoned == 1


async def test_error_in_200_of_ollama(tmp_path: Path, client: httpx.AsyncClient) -> None:
    sim = SimulatedCluster(tmp_path, speed=1000)
    endpoint = sim.add_endpoint("o", Ollama(sim.world, library=[OllamaModel("m:latest")]))
    async with sim:
        await endpoint.server.inflict(HttpFault("error_in_200"))
        answer = await client.post(endpoint.server.url + "/api/chat", json=CHAT)
        body: dict[str, Any] = answer.json()
        assert (answer.status_code, list(body)) == (200, ["error"])
