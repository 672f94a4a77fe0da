"""`tierdeck route` as scripts meet it: the decision, the answer, what fails, and the bench."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.vllm import Vllm
from backends.simulator.httpfaults import HttpFault
from tests.cli.driving import Ran, started, tierdeck


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    sim = SimulatedCluster(tmp_path / "sim", name="small", speed=50.0)
    sim.add_endpoint("a/coder", LlamaCpp(sim.world, models=["/m/coder.gguf"], embeddings=True), tasks=["code", "embed"])
    sim.add_endpoint("b/chat", Vllm(sim.world, models=["qwen"]), tasks=["chat", "code"])
    sim.add_endpoint("c/eyes", LlamaCpp(sim.world, models=["/m/vl.gguf"], vision=True), tasks=["vision"])
    library = [OllamaModel("llama3:8b", 4693.0, 6170.0)]
    sim.add_endpoint("d/ollama", Ollama(sim.world, library=library), tasks=["reason"])
    behind = Deployment("fast", "qwen", sim.endpoints["b/chat"].server)
    sim.add_endpoint("g/litellm", LiteLlm(sim.world, deployments=[behind]))
    sim.extra = {"router": {"chat": ["b/chat"], "code": ["a/coder", "b/chat"]}, "gateway": {"endpoint": "g/litellm"}}
    async with sim:
        yield sim


async def route(sim: SimulatedCluster, *words: str, **options: Any) -> Ran:
    return await tierdeck("route", "--cluster", str(sim.inventory_path), *words, env=sim.secrets, **options)


def prompts(sim: SimulatedCluster) -> int:
    return sum(e.engine.requests["POST /v1/chat/completions"] for e in sim.endpoints.values())


async def test_a_decision_is_told_and_nothing_is_sent(sim: SimulatedCluster) -> None:
    ran = await route(sim, "--json", "write a python function that parses dates")
    data = json.loads(ran.out)
    assert ran.code == 0
    assert data["schema"] == "tierdeck.route/1"
    assert (data["task"], data["chosen"]["endpoint"], data["chosen"]["model"]) == ("code", "a/coder", "/m/coder.gguf")
    assert data["chosen"]["url"] == sim.endpoints["a/coder"].server.url
    assert {"confidence", "runner_up", "why"} <= set(data)
    assert [(c["endpoint"], c["outcome"]) for c in data["candidates"]][:2] == [
        ("a/coder", "chosen"),
        ("b/chat", "next"),
    ]
    assert all(c["reason"] for c in data["candidates"])
    ran = await route(sim, "--task", "reason", "why?")
    assert "reason 1.00 (you chose it) -> d/ollama llama3:8b" in ran.out
    assert "asleep: a prompt loads llama3:8b" in ran.out, "what it would wake is said"
    assert prompts(sim) == 0


async def test_an_answer_on_standard_output_and_the_rest_beside_it(sim: SimulatedCluster) -> None:
    async with started(
        "route", "--cluster", str(sim.inventory_path), "--send", "--task", "chat", "-", stdin=asyncio.subprocess.PIPE
    ) as process:
        out, err = await process.communicate(b"hello there")
    assert process.returncode == 0
    assert out.strip()
    assert b"b/chat" in err
    assert b"b/chat" not in out
    assert b"to first token" in err
    ran = await route(sim, "--send", "--json", "--gateway", "--task", "chat", "hello")
    data = json.loads(ran.out)
    assert data["answer"]
    assert data["tokens_out"] > 10
    assert data["tries"] == [{"endpoint": "b/chat", "error": ""}]
    assert "through g/litellm as fast" in ran.err
    assert sim.endpoints["g/litellm"].engine.requests["POST /v1/chat/completions"] == 1


async def test_images_and_embeddings_decide(sim: SimulatedCluster, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    data = json.loads((await route(sim, "--send", "--json", "--image", str(tmp_path / "x.png"), "what is it?")).out)
    assert (data["task"], data["chosen"]["endpoint"], bool(data["answer"])) == ("vision", "c/eyes", True)
    data = json.loads((await route(sim, "--send", "--json", "--task", "embed", "hello")).out)
    assert (data["chosen"]["endpoint"], data["dimensions"]) == ("a/coder", 8)


async def test_nobody_can_serve(sim: SimulatedCluster, tmp_path: Path) -> None:
    await sim.endpoints["c/eyes"].stop()
    ran = await route(sim, "--json", "--send", "--task", "vision", "hi")
    data = json.loads(ran.out)
    assert (ran.code, data["chosen"]) == (3, None)
    assert "nobody can serve vision: c/eyes refused" in ran.err.lower()
    assert data["error"]["message"].startswith("Nobody can serve vision")


async def test_what_dies_in_mid_stream_is_told_with_the_next(sim: SimulatedCluster) -> None:
    await sim.endpoints["a/coder"].server.inflict(HttpFault("cut_stream"))
    ran = await route(sim, "--send", "--json", "--task", "code", "write a function")
    data = json.loads(ran.out)
    assert ran.code == 1
    assert data["answer"], "what came is kept"
    assert data["error"]["next"] == "b/chat"
    assert "broke off" in ran.err
    assert "--target b/chat" in ran.err
    assert prompts(sim) == 1, "nothing is sent twice unasked"


async def test_who_died_since_the_look_is_passed_over(sim: SimulatedCluster) -> None:
    """Its port refuses only after it was looked at: the second connection."""
    await sim.endpoints["a/coder"].stop()
    ran = await route(sim, "--send", "--target", "a/coder", "--task", "code", "hi")
    assert ran.code == 3
    assert "connect refused" in ran.err
    assert "--target b/chat" in ran.err
    assert prompts(sim) == 0


async def test_a_prompt_of_a_megabyte_is_measured_and_passed_over(sim: SimulatedCluster) -> None:
    async with started(
        "route", "--cluster", str(sim.inventory_path), "--json", "--task", "chat", "-", stdin=asyncio.subprocess.PIPE
    ) as process:
        out, _ = await process.communicate(b"word " * 200_000)
    data = json.loads(out)
    assert (process.returncode, data["chosen"]) == (3, None)
    assert "too long: about 285,714 tokens, and its context has 8,192" in data["candidates"][0]["reason"]
    long = " ".join(["word"] * 7000)
    data = json.loads((await route(sim, "--json", "--task", "chat", long)).out)
    assert data["chosen"]["endpoint"] == "b/chat", "vLLM's own tokenizer counts 7,000"
    assert sim.endpoints["b/chat"].engine.requests["POST /tokenize"] == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "There is no prompt"),
        ([" "], 2, "There is no prompt"),
        (["--target", "b/chta", "hi"], 2, 'There is no endpoint "b/chta". Known: a/coder'),
        (["--image", "/etc/hostname", "hi"], 1, "is no image"),
        (["--image", "/nowhere.png", "hi"], 1, "cannot be read"),
        (["--concurrency", "2", "hi"], 2, "belongs to a bench"),
        (["bench"], 2, "Which endpoint?"),
        (["bench", "nobody"], 2, "There is no endpoint"),
        (["bench", "b/chat", "--concurrency", "0"], 2, "numbers from 1 to 64"),
        (["--model", "gpt-9", "--task", "chat", "hi"], 3, "b/chat has no gpt-9"),
    ],
)
async def test_what_is_wrong_is_said(sim: SimulatedCluster, words: list[str], code: int, said: str) -> None:
    ran = await route(sim, *words)
    assert (ran.code, ran.out if "gpt" not in said else "") == (code, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


async def test_read_only_decides_and_does_not_send(sim: SimulatedCluster) -> None:
    ran = await tierdeck(
        "--read-only", "route", "--cluster", str(sim.inventory_path), "--send", "--task", "chat", "hi", env=sim.secrets
    )
    assert ran.code == 0
    assert "b/chat" in ran.out
    assert "decided, not sent" in ran.err
    assert prompts(sim) == 0


async def test_a_bench_by_levels(sim: SimulatedCluster) -> None:
    ran = await route(sim, "bench", "b/chat", "--concurrency", "1,3", "--json")
    data = json.loads(ran.out)
    assert ran.code == 0
    assert [level["concurrency"] for level in data["levels"]] == [1, 3]
    assert all(level["tokens_per_s"] > 0 and level["first_ms"] > 0 for level in data["levels"])
    assert "sending 4 prompts of 64 tokens to b/chat qwen" in ran.err
    assert prompts(sim) == 5, "and one to begin with"
    await sim.endpoints["b/chat"].server.inflict(HttpFault("status", under="/v1/chat"))
    assert (await route(sim, "bench", "b/chat")).code == 1


async def test_control_c_closes_the_connection(sim: SimulatedCluster) -> None:
    sim.world.speed = 0.05
    async with started("route", "--cluster", str(sim.inventory_path), "--send", "--task", "chat", "hello") as process:
        engine = sim.endpoints["b/chat"].engine
        async with asyncio.timeout(30):
            while not engine.running:
                await asyncio.sleep(0.02)
            os.kill(process.pid, 2)
            assert await process.wait() == 130
            while engine.running:
                await asyncio.sleep(0.02)
