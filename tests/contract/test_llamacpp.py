"""The contract of llama.cpp's server: what our probe and our chat stand on."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pydantic import SecretStr

from backends.cluster.engines import EngineName
from backends.cluster.files import parse
from backends.cluster.reading import ProbeResult
from backends.cluster.words import Cause, Verdict
from backends.engines.chat import Delta, Finished, Message, Started, chat
from backends.engines.http import Http
from backends.engines.metrics import LLAMACPP, progress
from backends.engines.registry import ENGINES
from backends.engines.target import Target
from backends.errors import ChatError
from tests.contract.llama_parts import CONTEXT, SLEEP, Llamas
from tests.contract.waiting import eventually
from tests.world.watching import until, watching

HI = [{"role": "user", "content": "hi"}]
FOUR = {"messages": HI, "max_tokens": 4, "ignore_eos": True}
"""Asks for four tokens exactly, even of a model of random weights."""
RECORDED = Path(__file__).parent.parent / "fixtures" / "recorded" / "llamacpp.jsonl"


def target(url: str, key: str = "", **fields: Any) -> Target:
    return Target(url, "llama.cpp", timeout=10.0, slow=10.0, key=SecretStr(key) if key else None, **fields)


async def probe(http: Http, url: str, key: str = "", *, deep: bool = True, **fields: Any) -> ProbeResult:
    return await ENGINES["llama.cpp"].probe(http, target(url, key, **fields), deep=deep)


async def get(url: str, key: str = "") -> httpx.Response:
    async with httpx.AsyncClient(timeout=10.0, verify=False) as client:
        return await client.get(url, headers={"Authorization": f"Bearer {key}"} if key else {})


async def post(url: str, body: object, key: str = "") -> httpx.Response:
    async with httpx.AsyncClient(timeout=30.0, verify=False) as client:
        return await client.post(url, json=body, headers={"Authorization": f"Bearer {key}"} if key else {})


async def counters(url: str) -> dict[str, float]:
    """The samples of /metrics."""
    lines = (await get(f"{url}/metrics")).text.splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def families(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


async def test_health_and_what_a_probe_finds(llamas: Llamas, http: Http) -> None:
    async with llamas.serving() as url:
        health = await get(f"{url}/health")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
        assert health.headers["server"] == "llama.cpp"
        shallow = await probe(http, url, deep=False)
        assert (shallow.cause, shallow.models) == (Cause.OK, None)
        found = await probe(http, url)
        assert (found.cause, found.evidence) == (Cause.OK, "answered; 1 model")
        assert found.latency is not None
        assert found.models is not None
        (model,) = found.models
        assert (model.name, model.loaded, model.context) == ("tiny", True, CONTEXT)
        assert model.size_mib is not None
        assert re.match(r"b\d+-", found.version or "")
        assert (await probe(http, url, model="tiny")).cause is Cause.OK
        other = await probe(http, url, model="another")
        assert (other.cause, "another" in other.evidence) == (Cause.CONFIG, True)


async def test_refused_then_loading_then_ready(llamas: Llamas, http: Http) -> None:
    seen: list[ProbeResult] = []
    async with llamas.loading() as url, asyncio.timeout(60):
        while not seen or seen[-1].cause is not Cause.OK:
            seen.append(await probe(http, url))
            if seen[-1].cause is Cause.LOADING and [r.cause for r in seen].count(Cause.LOADING) == 1:
                for route in ("/health", "/v1/models", "/props", "/slots", "/metrics"):
                    answer = await get(url + route)
                    assert answer.status_code == 503, route
                    error = answer.json()["error"]
                    assert error == {"message": "Loading model", "type": "unavailable_error", "code": 503}
                refused = await post(f"{url}/v1/chat/completions", {"messages": HI})
                assert refused.status_code == 503
                with pytest.raises(ChatError, match="answered 503: Loading model") as caught:
                    await collected(http, target(url, model="tiny"))
                assert "Wait until it is ready" in caught.value.advice
            await asyncio.sleep(0.02)
    order = [cause for n, cause in enumerate(r.cause for r in seen) if n == 0 or cause is not seen[n - 1].cause]
    assert order in ([Cause.REFUSED, Cause.LOADING, Cause.OK], [Cause.LOADING, Cause.OK])
    assert {r.evidence for r in seen if r.cause is Cause.LOADING} == {"503 Loading model"}


async def test_props_models_and_slots(llamas: Llamas) -> None:
    async with llamas.serving() as url:
        props = (await get(f"{url}/props")).json()
        assert props["default_generation_settings"]["n_ctx"] == CONTEXT
        assert (props["total_slots"], props["is_sleeping"]) == (2, False)
        assert all(props[f"endpoint_{route}"] is True for route in ("slots", "props", "metrics"))
        assert {"model_path", "model_alias", "build_info", "chat_template", "modalities"} <= set(props)
        listed = (await get(f"{url}/v1/models")).json()
        (model,) = listed["data"]
        assert (model["id"], model["owned_by"]) == ("tiny", "llamacpp")
        assert {"n_params", "size", "n_ctx", "n_ctx_train", "n_embd", "n_vocab"} <= set(model["meta"])
        assert listed["models"][0]["name"] == "tiny", "it answers in Ollama's shape, too"
        slots = (await get(f"{url}/slots")).json()
        assert [(s["id"], s["n_ctx"], s["is_processing"]) for s in slots] == [(0, CONTEXT, False), (1, CONTEXT, False)]


async def test_metrics_have_the_recorded_names_and_count(llamas: Llamas) -> None:
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    recorded = next(row["answer"] for row in rows if row.get("request") == "GET /metrics")
    async with llamas.serving() as url:
        answer = await get(f"{url}/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4"
        assert families(answer.text) == families(recorded)
        before = progress(answer.text, LLAMACPP)
        assert before is not None
        assert (before.tokens, before.running, before.waiting) == (0, 0, 0)
        await post(f"{url}/v1/chat/completions", FOUR)
        after = progress((await get(f"{url}/metrics")).text, LLAMACPP)
        assert after is not None
        assert after.tokens == 4


async def test_steps_are_counted_while_an_answer_lasts(llamas: Llamas) -> None:
    """Its tokens may be counted only when the answer ends; what tells that it works are its decoding steps."""
    async with llamas.serving(slow=True) as url:
        body = {"messages": HI, "max_tokens": CONTEXT // 2, "ignore_eos": True}
        answer = asyncio.create_task(post(f"{url}/v1/chat/completions", body))
        seen: list[tuple[float | None, ...]] = []

        async def moved() -> bool:
            found = progress((await get(f"{url}/metrics")).text, LLAMACPP)
            assert found is not None
            if found.works and (not seen or found.pulse != seen[-1]):
                seen.append(found.pulse)
            return len(seen) >= 4

        await eventually(moved, "it moves while it answers")
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)


async def test_it_falls_asleep_and_stays_asleep_while_it_is_polled(llamas: Llamas, tmp_path: Path) -> None:
    async with llamas.sleepy() as url:
        text = (
            'version = 1\nname = "t"\ndefaults = { interval = "200ms" }\n[[tiers]]\nname = "A"\n'
            f'[[endpoints]]\nname = "a"\ntier = "A"\nengine = "llama.cpp"\nurl = "{url}"\n'
        )
        async with watching(parse(text, Path("t.toml")), tmp_path / "state") as watch:
            await watch.until(lambda: watch.endpoint("a").cause is Cause.OK, "it is awake")
            await watch.until(lambda: watch.endpoint("a").cause is Cause.SLEEPING, "it sleeps", seconds=SLEEP + 10)
            watch.forget()
            turns = 3 * SLEEP / 0.2
            await watch.until(lambda: len(watch.of("a")) >= turns, "polled for thrice as long", seconds=60)
            assert {r.result.cause for r in watch.of("a")} == {Cause.SLEEPING}
            assert watch.endpoint("a").verdict is Verdict.UP
        props = (await get(f"{url}/props")).json()
        assert props["is_sleeping"] is True
        assert (await post(f"{url}/v1/chat/completions", FOUR)).status_code == 200, "a prompt wakes it"
        assert (await get(f"{url}/props")).json()["is_sleeping"] is False


async def test_who_needs_the_key(llamas: Llamas, http: Http) -> None:
    async with llamas.serving(key="right") as url:
        assert (await get(f"{url}/health")).status_code == 200
        for key in ("", "wrong"):
            for route in ("/v1/models", "/props", "/slots", "/metrics", "/nope"):
                answer = await get(url + route, key)
                assert answer.status_code == 401, (route, key)
                error = answer.json()["error"]
                assert error == {"message": "Invalid API Key", "type": "authentication_error", "code": 401}
            assert (await post(f"{url}/v1/chat/completions", {"messages": HI}, key)).status_code == 401
        for route in ("/v1/models", "/props", "/slots", "/metrics"):
            assert (await get(url + route, "right")).status_code == 200, route
        assert (await probe(http, url, "right")).cause is Cause.OK
        for key, words in (("", "API key missing"), ("wrong", "API key refused")):
            found = await probe(http, url, key)
            assert (found.cause, found.evidence) == (Cause.CONFIG, f"401 on /v1/models: {words}")
            assert (await probe(http, url, key, deep=False)).cause is Cause.OK, "health is open"
            with pytest.raises(ChatError, match=words) as caught:
                await collected(http, target(url, key))
            assert "api_key" in caught.value.advice
        assert isinstance((await collected(http, target(url, "right"), max_tokens=2))[-1], Finished)


async def collected(http: Http, to: Target, text: str = "hi", max_tokens: int | None = None) -> list[object]:
    """All that a chat says."""
    async with aclosing(chat(http, to, [Message("user", text)], max_tokens=max_tokens)) as events:
        return [event async for event in events]


async def test_an_answer_is_streamed(llamas: Llamas, http: Http) -> None:
    async with llamas.serving() as url:
        for _ in range(10):  # a model of random weights may end its answer by chance, or say half a character
            started, *deltas, finished = await collected(http, target(url), max_tokens=4)
            if deltas and isinstance(finished, Finished) and finished.reason == "length":
                break
        assert isinstance(started, Started)
        assert started.model == "tiny", "the one it names itself"
        assert deltas
        assert all(isinstance(delta, Delta) for delta in deltas)
        assert isinstance(finished, Finished)
        assert (finished.reason, finished.tokens_out) == ("length", 4)
        assert finished.tokens_in is not None
        assert finished.tokens_in > 0
        assert finished.first_token_s is not None
        assert 0 < finished.first_token_s <= finished.seconds
        assert finished.tokens_per_s is not None
        raws = [await raw_stream(url) for _ in range(10)]
        for events in raws:
            assert all(event.startswith("data: ") for event in events)
            assert events[-1] == "data: [DONE]"
            first, last = json.loads(events[0][6:]), json.loads(events[-2][6:])
            assert (first["object"], first["model"]) == ("chat.completion.chunk", "tiny")
            assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
            assert last["timings"]["predicted_n"] == 4
        roles = [json.loads(events[0][6:])["choices"][0]["delta"].get("role") for events in raws]
        assert set(roles) - {None} == {"assistant"}, "at first, where its first token is a whole character"


async def raw_stream(url: str) -> list[str]:
    """The events of an answer as they are sent."""
    body = {**FOUR, "stream": True, "stream_options": {"include_usage": True}}
    answer = await post(f"{url}/v1/chat/completions", body)
    assert answer.headers["content-type"] == "text/event-stream"
    return [event for event in answer.text.split("\n\n") if event]


def connections_to(url: str) -> int:
    """Connections of this process to that port, from the client's side."""
    port = int(url.rpartition(":")[2])
    found = psutil.Process(os.getpid()).net_connections(kind="tcp")
    return sum(bool(c.raddr) and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in found)


async def test_leaving_an_answer_closes_the_connection_and_ends_the_work(llamas: Llamas, http: Http) -> None:
    async with llamas.serving(slow=True) as url:
        events = chat(http, target(url), [Message("user", "hi")])
        for _ in range(2):
            await anext(events)
        assert connections_to(url) >= 1
        await events.aclose()
        await until(lambda: connections_to(url) == 0, "no connection is left")
        before = (await counters(url))["llamacpp:tokens_predicted_total"]
        body = json.dumps({"messages": HI, "stream": True, "ignore_eos": True}).encode()
        async with http.stream(f"{url}/v1/chat/completions", body, connect=5, timeout=10) as stream:
            await anext(aiter(stream.chunks))
            assert (await counters(url))["llamacpp:requests_processing"] >= 1

        async def idle() -> bool:
            return not (await counters(url))["llamacpp:requests_processing"]

        await eventually(idle, "it works no more", seconds=10)
        made = (await counters(url))["llamacpp:tokens_predicted_total"] - before
        assert made < CONTEXT / 2, "it went on for nobody"


async def test_a_prompt_that_is_too_long(llamas: Llamas, http: Http) -> None:
    long = "word " * 9000
    async with llamas.serving() as url:
        answer = await post(f"{url}/v1/chat/completions", {"messages": [{"role": "user", "content": long}]})
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert (error["type"], error["code"], error["n_ctx"]) == ("exceed_context_size_error", 400, CONTEXT)
        assert error["n_prompt_tokens"] > CONTEXT
        with pytest.raises(ChatError, match=rf"answered 400: .* exceeds the available context size \({CONTEXT}"):
            await collected(http, target(url), long)


async def test_what_it_does_not_do(llamas: Llamas, http: Http) -> None:
    async with llamas.serving() as url:
        missing = await get(f"{url}/nope")
        assert missing.status_code == 404
        assert missing.json()["error"] == {"message": "File Not Found", "type": "not_found_error", "code": 404}
        embeddings = await post(f"{url}/v1/embeddings", {"input": "x"})
        assert embeddings.status_code == 501
        assert "does not support embeddings" in embeddings.json()["error"]["message"]
        async with httpx.AsyncClient(verify=False) as client:
            garbage = await client.post(f"{url}/v1/chat/completions", content=b"{nope")
        assert garbage.status_code == 400
        assert garbage.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("other", ["ollama", "vllm", "litellm", "lmstudio"])
async def test_taken_for_another_engine_it_is_recognised(llamas: Llamas, http: Http, other: EngineName) -> None:
    async with llamas.serving() as url:
        found = await ENGINES[other].probe(http, Target(url, other, timeout=10.0), deep=True)
        assert (found.cause, found.evidence) == (Cause.CONFIG, f"llama.cpp answers here, not {other}")
