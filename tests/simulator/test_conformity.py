"""The simulated engines against the recorded answers of real ones: same status, content type, keys and types."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.vllm import Vllm

RECORDED = Path(__file__).parent.parent / "fixtures" / "recorded"
KEY = "sk-1234"
Shape = Any


def recorded(name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]
    return [row for row in rows if "request" in row]


def shape(value: object) -> Shape:
    """Keys and types; of a list the different shapes of its elements."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [json.loads(x) for x in sorted({json.dumps(shape(inner), sort_keys=True) for inner in value})]
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


def shapes(text: str, content_type: str) -> list[Shape]:
    """The shape of an answer: one, or those of a stream with repetitions left out."""
    if "event-stream" in content_type:
        datas = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        found = ["done" if data == "[DONE]" else shape(json.loads(data)) for data in datas]
    elif "ndjson" in content_type:
        found = [shape(json.loads(line)) for line in text.splitlines()]
    elif "json" in content_type:
        found = [shape(json.loads(text))]
    else:
        return [text]
    return [x for i, x in enumerate(found) if i == 0 or x != found[i - 1]]


def metrics(text: str, prefix: str) -> dict[str, Any]:
    """Families with their type, and the label names of every sample."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if line.startswith(f"# TYPE {prefix}"):
            _, _, name, kind = line.split()
            found[name] = kind
        elif line.startswith(prefix):
            name, _, rest = line.partition("{")
            found.setdefault(f"{name.split()[0]}{{}}", re.findall(r'(\w+)="', rest.partition("}")[0]))
    return found


async def ask(client: httpx.AsyncClient, row: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    method, path = row["request"].split(" ", 1)
    # The recorder accepted no compression; llama.cpp's own page depends on it.
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    return await client.request(method, path, json=row["body"], headers=sent)


def check(row: dict[str, Any], answer: httpx.Response, *, exempt: Sequence[str] = ()) -> None:
    where = f"{row['request']} {json.dumps(row['body'])[:120]}"
    assert answer.status_code == row["status"], where
    content_type = row["headers"].get("content-type", "")
    assert answer.headers.get("content-type", "") == content_type, where
    if "server" in row["headers"]:
        assert answer.headers.get("server") == row["headers"]["server"], where
    if row["request"] not in exempt:
        assert shapes(answer.text, content_type) == shapes(row["answer"], content_type), where


@pytest.fixture
def sim(tmp_path: Path) -> SimulatedCluster:
    return SimulatedCluster(tmp_path, speed=1000.0)


async def test_llamacpp(sim: SimulatedCluster) -> None:
    engine = LlamaCpp(sim.world, models=["/models/tiny.gguf"], slots=2, context=256)
    endpoint = sim.add_endpoint("a", engine)
    async with sim, httpx.AsyncClient(base_url=endpoint.server.url) as client:
        for row in recorded("llamacpp"):
            answer = await ask(client, row)
            check(row, answer, exempt=["GET /metrics"])
            if row["request"] == "GET /metrics":
                assert list(metrics(answer.text, "llamacpp:").items()) == list(
                    metrics(row["answer"], "llamacpp:").items()
                )
    assert engine.requests["GET /metrics"] == 2


async def test_llamacpp_with_a_key(sim: SimulatedCluster) -> None:
    endpoint = sim.add_endpoint("a", LlamaCpp(sim.world, models=["/models/tiny.gguf"], api_key=KEY))
    rows = recorded("llamacpp-api-key")
    async with sim, httpx.AsyncClient(base_url=endpoint.server.url) as client:
        for row in rows:
            headers = (
                {"Authorization": f"Bearer {KEY}"} if (row["request"], row["status"]) == ("GET /props", 200) else {}
            )
            check(row, await ask(client, row, headers))


async def test_llamacpp_while_it_loads(sim: SimulatedCluster) -> None:
    engine = LlamaCpp(sim.world, models=["/models/tiny.gguf"])
    endpoint = sim.add_endpoint("a", engine, load_s=1e6, state="starting")
    rows = recorded("llamacpp-loading")
    assert "refused" in rows[0]["error"]
    async with sim, httpx.AsyncClient(base_url=endpoint.server.url) as client:
        for row in rows[1:]:
            if "status" in row:
                check(row, await ask(client, row))
        await endpoint.stop()
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")


async def test_ollama(sim: SimulatedCluster) -> None:
    tiny = OllamaModel("tiny:latest", 0.2, 3.6, "llama", "1M", "F16", 2048, 64)
    name = "127.0.0.1:25000/library/tiny:latest"
    library = [OllamaModel(name, 0.2, 3.6, "llama", "1M", "F16", 2048, 64), tiny]
    endpoint = sim.add_endpoint("a", Ollama(sim.world, library=library))
    async with sim, httpx.AsyncClient(base_url=endpoint.server.url) as client:
        for row in recorded("ollama"):
            answer = await ask(client, row)
            check(row, answer, exempt=["POST /api/show"])
            if row["request"] == "POST /api/show" and row["status"] == 200:
                ours, theirs = answer.json(), json.loads(row["answer"])
                assert shape(ours["details"]) == shape(theirs["details"])
                assert set(theirs) - {"license"} == set(ours)
                assert ours["model_info"]["llama.block_count"]
                assert shape(ours["tensors"]) == shape(theirs["tensors"])


async def test_vllm(sim: SimulatedCluster) -> None:
    endpoint = sim.add_endpoint("a", Vllm(sim.world, models=["tiny"], context=512))
    async with sim, httpx.AsyncClient(base_url=endpoint.server.url) as client:
        for row in recorded("vllm"):
            answer = await ask(client, row)
            check(row, answer, exempt=["GET /metrics"])
            if row["request"] == "GET /metrics":
                ours, theirs = metrics(answer.text, "vllm:"), metrics(row["answer"], "vllm:")
                unrecorded = {name for name in ours if not name.startswith("vllm:time_to_first_token_seconds")}
                assert {name: ours[name] for name in unrecorded} == {name: theirs[name] for name in unrecorded}
                for name in ("num_requests_running", "num_requests_waiting", "generation_tokens_total"):
                    assert f"vllm:{name}" in ours


async def test_litellm(sim: SimulatedCluster) -> None:
    ollama = sim.add_endpoint("o", Ollama(sim.world, library=[OllamaModel("tiny")]))
    vllm = sim.add_endpoint("v", Vllm(sim.world, models=["tiny"]))
    dead = sim.add_endpoint("d", Vllm(sim.world, models=["nothing"]), state="stopped")
    deployments = [
        Deployment("local/chat", "tiny", ollama.server, "ollama_chat"),
        Deployment("remote/mark-i", "tiny", vllm.server),
        Deployment("remote/dead", "nothing", dead.server),
    ]
    endpoint = sim.add_endpoint("g", LiteLlm(sim.world, deployments=deployments, api_key=KEY))
    rows = recorded("litellm")
    keyless = next(i for i, row in enumerate(rows) if row["request"] == "GET /nope") + 1
    async with sim, httpx.AsyncClient(base_url=endpoint.server.url) as client:
        for index, row in enumerate(rows):
            without = index < keyless or index == len(rows) - 2
            key = "sk-wrong" if index == len(rows) - 1 else KEY
            answer = await ask(client, row, {} if without else {"Authorization": f"Bearer {key}"})
            exempt = ["GET /model/info", "GET /health"] if index >= keyless else []
            named = (row["body"] or {}).get("model") == "remote/mark-i"
            check(row, answer, exempt=[*exempt, "POST /v1/chat/completions"] if named else exempt)
            if named and row["status"] == 200:
                _check_passed_on(row, answer)
            if row["request"] == "GET /model/info":
                ours, theirs = answer.json()["data"], json.loads(row["answer"])["data"]
                assert shape(ours[0]) == shape(theirs[0])
                assert set(ours[1]["model_info"]) <= set(theirs[1]["model_info"])
    assert vllm.engine.requests["POST /v1/chat/completions"] == 3
    assert ollama.engine.requests["POST /api/chat"] == 2


def _check_passed_on(row: dict[str, Any], answer: httpx.Response) -> None:
    """What an engine behind the gateway said of its own may be missing, nothing else."""
    content_type = row["headers"]["content-type"]
    theirs = json.loads(json.dumps(shapes(row["answer"], content_type)).replace('"provider_specific_fields"', '"-"'))
    ours = shapes(answer.text, content_type)
    if row["body"].get("stream"):
        assert all(one in ours for one in theirs)
        return
    assert set(ours[0]) == set(theirs[0]) - {"system_fingerprint"}
    assert ours[0]["usage"] == theirs[0]["usage"]
    assert set(ours[0]["choices"][0]) == set(theirs[0]["choices"][0]) - {"-"}
