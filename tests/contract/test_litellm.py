"""The contract of LiteLLM's proxy, and that our probe never asks what calls every model behind it."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from backends.cluster.words import Cause
from backends.engines.chat import Delta, Finished, Message, Started, chat
from backends.engines.http import Http
from backends.engines.registry import ENGINES
from backends.engines.target import Target
from backends.errors import ChatError
from tests.contract.litellm_parts import KEY, Gateway
from tests.world.watching import until

HI = [{"role": "user", "content": "hi"}]


def target(gateway: Gateway, key: str = KEY, model: str | None = None) -> Target:
    secret = SecretStr(key) if key else None
    return Target(gateway.url, "litellm", timeout=20.0, slow=20.0, key=secret, model=model)


async def ask(gateway: Gateway, route: str, key: str = "", body: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=60.0, verify=False) as client:
        if body is None:
            return await client.get(gateway.url + route, headers=headers)
        return await client.post(gateway.url + route, headers=headers, json=body)


async def test_what_is_open_and_what_needs_the_key(gateway: Gateway) -> None:
    alive = await ask(gateway, "/health/liveliness")
    assert (alive.status_code, alive.json()) == (200, "I'm alive!")
    ready = await ask(gateway, "/health/readiness")
    assert (ready.status_code, ready.json()["status"]) == (200, "healthy")
    missing = await ask(gateway, "/v1/models")
    assert (missing.status_code, missing.text) == (500, "Internal Server Error"), "so it says it without a database"
    wrong = await ask(gateway, "/v1/models", "sk-wrong")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "no_db_connection")
    listed = (await ask(gateway, "/v1/models", KEY)).json()
    assert [model["id"] for model in listed["data"]] == ["front", "dead"]
    assert (await ask(gateway, "/nope")).json() == {"detail": "Not Found"}
    body = {"model": "front", "messages": HI, "max_tokens": 2}
    assert (await ask(gateway, "/v1/chat/completions", "", body)).status_code == 500
    assert (await ask(gateway, "/v1/chat/completions", "sk-wrong", body)).status_code == 400
    backlog = (await ask(gateway, "/health/backlog", KEY)).json()
    assert backlog["in_flight_requests"] >= 1


async def test_what_a_probe_finds(gateway: Gateway, http: Http) -> None:
    engine = ENGINES["litellm"]
    found = await engine.probe(http, target(gateway), deep=True)
    assert (found.cause, found.evidence) == (Cause.OK, "answered; 2 models")
    assert [model.name for model in found.models or ()] == ["front", "dead"]
    for key, words in (("", "API key missing"), ("sk-wrong", "API key refused")):
        found = await engine.probe(http, target(gateway, key), deep=True)
        assert found.cause is Cause.CONFIG
        assert words in found.evidence
        assert (await engine.probe(http, target(gateway, key), deep=False)).cause is Cause.OK
    absent = await engine.probe(http, target(gateway, model="absent"), deep=True)
    assert (absent.cause, "absent" in absent.evidence) == (Cause.CONFIG, True)
    for kind in ("ollama", "vllm", "lmstudio", "sglang", "llama.cpp"):
        mistaken = await ENGINES[kind].probe(http, Target(gateway.url, kind, timeout=20.0), deep=True)
        assert mistaken.cause not in (Cause.OK, Cause.SLEEPING, Cause.LOADING), (kind, mistaken.evidence)


async def test_no_probe_asks_health_or_prompts_a_model(gateway: Gateway, http: Http) -> None:
    asked, prompted = gateway.asked("/health"), await gateway.prompted()
    alive, ready = gateway.asked("/health/liveliness"), gateway.asked("/health/readiness")
    for n in range(20):
        found = await ENGINES["litellm"].probe(http, target(gateway), deep=n % 2 == 0)
        assert found.cause is Cause.OK
    await until(lambda: gateway.asked("/health/liveliness") == alive + 20, "the proxy has counted")
    assert gateway.asked("/health/readiness") == ready + 10
    assert gateway.asked("/health") == asked
    assert await gateway.prompted() == prompted
    answer = await ask(gateway, "/health", KEY)
    assert [answer.json()[f"{state}_count"] for state in ("healthy", "unhealthy")] == [1, 1]
    await until(lambda: gateway.asked("/health") == asked + 1, "this is counted, or else the above proves nothing")
    assert await gateway.prompted() > prompted, "it does call the models"


async def test_nor_does_one_for_another_engine(gateway: Gateway, http: Http) -> None:
    """Who names the wrong engine asks /health, but without the key, and so of no model."""
    prompted = await gateway.prompted()
    for kind in ENGINES:
        await ENGINES[kind].probe(http, Target(gateway.url, kind, timeout=20.0, key=SecretStr(KEY)), deep=True)
    assert await gateway.prompted() == prompted


async def test_an_answer_through_it_is_streamed(gateway: Gateway, http: Http) -> None:
    for _ in range(10):  # a model of random weights may end its answer by chance, or say half a character
        started, *deltas, finished = await collected(http, target(gateway, model="front"))
        if deltas and isinstance(finished, Finished) and finished.reason == "length":
            break
    assert isinstance(started, Started)
    assert started.model == "front"
    assert deltas
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.tokens_out) == ("length", 4)
    assert finished.tokens_in is not None
    body = {"model": "front", "messages": HI, "max_tokens": 4, "stream": True}
    raw = await ask(gateway, "/v1/chat/completions", KEY, body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in raw.text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    first = json.loads(lines[0].removeprefix("data: "))
    assert (first["object"], first["model"]) == ("chat.completion.chunk", "front")
    reasons = [choice.get("finish_reason") for line in lines[:-1] for choice in json.loads(line[6:])["choices"]]
    assert [reason for reason in reasons if reason][-1] in ("length", "stop")
    whole = (await ask(gateway, "/v1/chat/completions", KEY, body | {"stream": False})).json()
    assert whole["model"] == "front"
    assert 1 <= whole["usage"]["completion_tokens"] <= 4
    assert whole["choices"][0]["message"]["role"] == "assistant"


async def test_models_that_are_not_there_or_dead(gateway: Gateway, http: Http) -> None:
    body = {"model": "nope", "messages": HI, "max_tokens": 2}
    unknown = await ask(gateway, "/v1/chat/completions", KEY, body)
    assert unknown.status_code == 400
    assert "Invalid model name passed in model=nope" in unknown.json()["error"]["message"]
    for model, words in (("nope", "answered 400: .*Invalid model name"), ("dead", "answered 500: .*Connection error")):
        with pytest.raises(ChatError, match=words):
            await collected(http, target(gateway, model=model))


async def collected(http: Http, to: Target) -> list[object]:
    """All that a chat says."""
    async with aclosing(chat(http, to, [Message("user", "hi")], max_tokens=4)) as events:
        return [event async for event in events]
