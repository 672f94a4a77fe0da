"""From a file to an answer through the gateway as one plan; whatever step fails, all is as it was before."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from backends.errors import ProcedureError
from backends.procedures.plan import Danger, Plan, describe, from_json, to_json
from backends.reach.whole_file import KEPT
from tests.deploy.carrying import failing, take_back, words
from tests.deploy.conftest import FORMER, Site

TAKEN_BACK = "taken back: all is as it was before"


OLLAMA = {"preset": "ollama", "image": "ollama:1", "model": None, "pull": "qwen2.5:0.5b"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.procedures.gateway.LOOK", 0.05)


async def planned(site: Site, **fields: Any) -> Plan:
    """A plan with every kind of step there is: the image is fetched, the GPUs are tried."""
    site.docker.registry |= {"llama:b2", "ollama:1"}
    return await site.plan(site.spec(**{"image": "llama:b2", "gateway": True, "bind": "0.0.0.0", **fields}))


async def answer(site: Site, model: str) -> str:
    """What the gateway answers to a prompt."""
    url = f"{site.sim.endpoints['gateway/litellm'].server.url}/v1/chat/completions"
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return str((await response.json())["choices"][0]["message"]["content"])


async def test_every_call_is_shown_and_the_gateway_then_answers_for_the_new_model(site: Site) -> None:
    before = site.state()
    plan = await planned(site)
    assert site.state() == before, "a plan changes nothing"
    assert from_json(to_json(plan)) == plan
    assert plan.danger is Danger.INTERRUPTS
    shown = describe(plan)
    for call in (
        "docker pull llama:b2", "docker volume create coder-models", "docker create --name coder", "docker start coder",
        f"cp -p {site.gateway} {site.gateway}{KEPT}", "docker stop litellm; docker start litellm", "GET /v1/models",
        "seen: gateway: + coder: openai/coder",
        "interrupts: every request that gateway/litellm is answering then",
    ):  # fmt: skip
        assert any(call in line for line in shown), call
    events = await site.carry_out(plan)
    assert events[-1].outcome == "done", words(events)
    assert await answer(site, "coder")
    assert site.gateway.with_name(f"config.yaml{KEPT}").read_bytes() == FORMER
    events = await site.carry_out(plan, back=True)
    assert events[-1].text == TAKEN_BACK, words(events)
    assert site.state() == before


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fields", [{}, OLLAMA], ids=["llama.cpp", "ollama"])
async def test_a_failure_at_any_step_is_taken_back(site: Site, fields: dict[str, Any], late: bool) -> None:
    """Of the plan's own steps, each one once: a step that comes to be is tried, too."""
    before = site.state()
    count = len((await planned(site, **fields)).steps)
    for at in range(count):
        plan = await planned(site, **fields)
        events = await site.carry_out(plan, kinds=failing(at, plan, late=late), ask=take_back)
        assert [e.step for e in events if e.event == "step_failed"] == [at], words(events)
        assert (events[-1].outcome, events[-1].text) == ("failed", TAKEN_BACK), words(events)
        assert site.state() == before, plan.steps[at].label


async def test_a_gateway_that_does_not_come_back_takes_the_whole_deployment_with_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.procedures.gateway.READY_LIMIT", 2.0)
    before, gateway = site.state(), site.docker.containers["litellm"]
    plan = await planned(site)
    begin = gateway.start

    def starts(**options: Any) -> None:
        begin(**options)
        if site.gateway.read_bytes() != FORMER:
            asyncio.get_running_loop().call_soon(gateway.crash, 1, "Error: no such setting")

    monkeypatch.setattr(gateway, "start", starts)
    events = await site.carry_out(plan, ask=take_back)
    failed = next(e.text for e in events if e.event == "step_failed")
    assert "does not come back with the new file: litellm ended by itself (exited). It said: Error: no such" in failed
    assert events[-1].text == TAKEN_BACK, words(events)
    assert site.state() == before


async def test_a_copy_that_lay_beside_the_gateways_file_comes_back_too(site: Site) -> None:
    copy = site.gateway.with_name(f"config.yaml{KEPT}")
    copy.write_bytes(b"an earlier one\n")
    before = site.state()
    plan = await planned(site)
    assert (await site.carry_out(plan))[-1].outcome == "done"
    assert copy.read_bytes() == FORMER
    assert (await site.carry_out(plan, back=True))[-1].text == TAKEN_BACK
    assert site.state() == before


async def test_a_rollback_that_was_broken_off_with_the_gateway_stopped_starts_it(site: Site) -> None:
    before = site.state()
    plan = await planned(site)
    assert (await site.carry_out(plan))[-1].outcome == "done"
    await site.docker.containers["litellm"].stop()
    site.gateway.write_bytes(FORMER)
    events = await site.carry_out(plan, back=True)
    assert events[-1].text == TAKEN_BACK, words(events)
    assert site.state() == before


async def test_a_gateway_that_was_stopped_is_stopped_afterwards(site: Site) -> None:
    await site.docker.containers["litellm"].stop()
    before = site.state()
    plan = await planned(site)
    assert plan.danger is Danger.CHANGES
    last = len(plan.steps) - 1
    events = await site.carry_out(plan, kinds=failing(last, plan, late=True), ask=take_back)
    assert events[-1].text == TAKEN_BACK, words(events)
    assert site.state() == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bind": None}, "The gateway would not serve it: mark/coder is left out: only SSH leads there"),
        ({"preset": "litellm", "api_key": "env:K", "gpus": "none"}, "The gateway would not serve it"),
    ],
)
async def test_what_the_gateway_could_not_serve_is_refused(site: Site, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ProcedureError, match=said):
        await site.plan(site.spec(gateway=True, **fields))
