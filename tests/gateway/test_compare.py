"""What a new configuration changes, in words; and the verbs that compare and push, on the simulator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.errors import GatewayError
from backends.gateway.compare import compare, unread
from backends.simulator.demo import demo
from tests.cli.driving import tierdeck

OLD = """
model_list:
  - {model_name: a, litellm_params: {model: openai/a, api_base: http://x/v1, api_key: sk-secret}}
  - {model_name: b, litellm_params: {model: openai/b}}
router_settings: {num_retries: 2, timeout: 5}
general_settings: {master_key: sk-1234}
"""
NEW = """
model_list:
  - {model_name: a, litellm_params: {model: openai/a2, api_base: http://x/v1}}
  - {model_name: c, litellm_params: {model: openai/c}}
router_settings: {num_retries: 1}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""


def test_groups_and_settings_are_compared_and_secrets_hidden() -> None:
    assert compare(OLD, NEW) == [
        "~ a: openai/a http://x/v1 -> openai/a2 http://x/v1",
        "- b: openai/b",
        "+ c: openai/c",
        "~ general_settings.master_key: *** -> os.environ/LITELLM_MASTER_KEY",
        "~ router_settings.num_retries: 2 -> 1",
        "~ router_settings.timeout: 5 -> not said",
    ]
    assert compare(OLD, OLD + "# a comment\n") == []
    with pytest.raises(GatewayError, match="the configured file, line 1"):
        compare("a: b: c", NEW)


def test_what_runs_and_was_not_restarted_is_told() -> None:
    assert unread(OLD, ["a", "b"]) == []
    assert unread(OLD, ["a", "gone"]) == [
        "b: in the file, but the running gateway does not serve it",
        "gone: served by the running gateway, but not in the file",
    ]


async def test_the_verbs_compare_and_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERDECK_STATE", str(tmp_path / "state"))
    file = tmp_path / "config.yaml"
    file.write_text(OLD)
    sim = demo(tmp_path / "sim", speed=50.0)
    sim.extra["gateway"] = {"endpoint": "gateway/litellm", "config": str(file)}
    async with sim:
        cluster = ("--cluster", str(sim.inventory_path))
        differs = await tierdeck("gateway", "diff", *cluster, "--json", env=sim.secrets)
        planned = await tierdeck("gateway", "push", *cluster, "--dry-run", "--json", env=sim.secrets)
        unsure = await tierdeck("gateway", "push", *cluster, "--yes", env=sim.secrets)
        bad = tmp_path / "bad.yaml"
        bad.write_text("a: b: c")
        broken = await tierdeck("gateway", "push", *cluster, "--file", str(bad), env=sim.secrets)
        bad.write_text(OLD.replace("sk-1234", "os.environ/K"))
        leaky = await tierdeck("gateway", "push", *cluster, "--file", str(bad), env=sim.secrets)
        rendered = await tierdeck("gateway", "render", *cluster, "--output", str(file), env=sim.secrets)
        same = await tierdeck("gateway", "diff", *cluster, env=sim.secrets)
        idle = await tierdeck("gateway", "push", *cluster, "--yes", env=sim.secrets)
    told = json.loads(differs.out)
    assert (differs.code, told["schema"], told["same"]) == (1, "tierdeck.gateway-diff/1", False)
    assert "- b: openai/b" in told["changes"]
    assert "local/chat: served by the running gateway, but not in the file" in told["not_read"]
    assert [step["kind"] for step in json.loads(planned.out)["steps"]][-1] == "ask_gateway"
    assert (unsure.code, "say --interrupt too" in unsure.err) == (2, True)
    assert (broken.code, "bad.yaml, line 1, column 5: this is no YAML" in broken.err) == (1, True)
    assert (leaky.code, "line 3: api_key stands here in plain text" in leaky.err) == (1, True)
    for ran in (differs, planned, unsure, broken, leaky):
        assert "sk-secret" not in ran.out + ran.err
    assert rendered.code == 0
    assert (idle.code, "nothing is to be done" in idle.err) == (0, True)
    assert same.code == 0, same.out
