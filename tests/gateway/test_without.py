"""A node taken out of a configuration: what is left is the same to LiteLLM, but for what led there."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from backends.cluster.inventory import Inventory
from backends.errors import GatewayError
from backends.gateway.render import render
from backends.gateway.without import MARK, without
from tests.gateway.test_render import engine, inventory

BOTH = """\
# by hand
model_list:
  - {model_name: code, litellm_params: {model: openai/x, api_base: "http://10.0.10.20:8000/v1"}}
  # the second
  - {model_name: code, litellm_params: {model: openai/y, api_base: "http://10.0.10.5:8001/v1"}}
litellm_settings: {drop_params: yes}
"""
FALLS_BACK = """\
model_list:
  - {model_name: code, litellm_params: {model: openai/x, api_base: "http://10.0.10.20:8000/v1"}}
  - {model_name: gone, litellm_params: {model: openai/x, api_base: "http://mark:9/v1"}}
  - {model_name: nas, litellm_params: {model: openai/y, api_base: "http://10.0.10.5:8001/v1"}}
router_settings: {fallbacks: [{code: [gone, nas]}]}
"""
ANCHORED = """\
params: &shared {api_key: os.environ/KEY, api_version: 2024-02-01}
model_list:
  - &first
    model_name: a
    litellm_params: {<<: *shared, model: openai/x, api_base: http://10.0.10.20:8000/v1}
    model_info: &info {mode: chat}
  - model_name: b
    litellm_params: {<<: *shared, model: openai/y, api_base: http://elsewhere:1/v1}
    model_info: *info
  - <<: *first
    model_name: c
general_settings: {on: off, port: 010, at: 12:30:00}
"""
OTHERS = """\
model_list:
  - {model_name: far, litellm_params: {model: anthropic/claude}}
  - {model_name: told, litellm_params: {model: openai/x, api_base: os.environ/BASE}}
  - {model_name: odd, litellm_params: {model: openai/x, api_base: "http://[10.0.10.20"}}
"""


def cluster() -> Inventory:
    return inventory(
        engine("a", "llama.cpp", tasks=["code"], model="m"),
        engine("b", "vllm", url="http://10.0.10.5:8001", node="gate", tasks=["code", "chat"], model="n"),
    )


def left_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.mark.parametrize(
    ("text", "groups", "stand_ins", "unserved", "models"),
    [
        (BOTH, ["code"], {}, [], [("code", "openai/y")]),
        (FALLS_BACK, ["code", "gone"], {"code": "nas"}, ["gone"], [("nas", "openai/y"), ("code", "openai/y")]),
        (
            FALLS_BACK.replace("fallbacks: [{code: [gone, nas]}]", "default_fallbacks: [nas]"),
            ["code", "gone"], {"code": "nas", "gone": "nas"}, [],
            [("nas", "openai/y"), ("code", "openai/y"), ("gone", "openai/y")],
        ),
        (ANCHORED, ["a", "c"], {}, ["a", "c"], [("b", "openai/y")]),
        (ANCHORED.replace("\n", "\r\n"), ["a", "c"], {}, ["a", "c"], [("b", "openai/y")]),
        (
            render(cluster(), {}).text, ["code", "m"], {"code": "n"}, ["m"],
            [("chat", "hosted_vllm/n"), ("n", "hosted_vllm/n"), ("code", "hosted_vllm/n")],
        ),
    ],
)  # fmt: skip
def test_what_is_left(
    text: str, groups: list[str], stand_ins: dict[str, str], unserved: list[str], models: list[tuple[str, str]]
) -> None:
    left = without(text, cluster(), "mark", "config.yaml")
    assert left is not None
    assert (list(left.groups), left.stand_ins, list(left.unserved)) == (groups, stand_ins, unserved)
    former, found = left_of(text), left_of(left.text)
    assert [(e["model_name"], e["litellm_params"]["model"]) for e in found.pop("model_list")] == models
    former.pop("model_list")
    assert found == former, "all else is the same"
    assert left.text.startswith(f"{MARK}mark ")


@pytest.mark.parametrize("text", [OTHERS, "model_list:\n", "other: 1\n"])
def test_a_file_in_which_nothing_leads_there(text: str) -> None:
    assert without(text, cluster(), "mark", "config.yaml") is None


def test_the_same_file_gives_the_same_text() -> None:
    assert without(BOTH, cluster(), "mark", "f") == without(BOTH, cluster(), "mark", "f")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_list: {", "line 1"),
        ("model_list: 3", "model_list is no list"),
        ("- a", "no configuration of LiteLLM"),
        (f"model_list: [{BOTH.splitlines()[2].strip('- ')}]\n---\na: 1\n", "this is no YAML"),
    ],
)
def test_what_cannot_be_read_or_written_is_said(text: str, words: str) -> None:
    with pytest.raises(GatewayError, match=words):
        without(text, cluster(), "mark", "config.yaml")
