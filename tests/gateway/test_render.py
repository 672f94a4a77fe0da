"""What the rendered configuration says for each kind of engine, task and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.cluster.inventory import Inventory
from backends.cluster.reading import ModelInfo
from backends.errors import GatewayError
from backends.gateway.render import Rendered, render
from backends.simulator.demo import demo
from tests.cli.driving import tierdeck


def inventory(*endpoints: dict[str, Any], **more: Any) -> Inventory:
    """A cluster of these endpoints on two nodes, with a gateway on one of them."""
    nodes = [{"name": "mark", "address": "10.0.10.20"}, {"name": "gate", "address": "10.0.10.5"}]
    gateway = {"name": "gw", "tier": "A", "engine": "litellm", "url": "http://10.0.10.5:4000", "node": "gate"}
    told = {"version": 1, "name": "home", "nodes": nodes, "tiers": [{"name": "A"}], "gateway": {"endpoint": "gw"}}
    return Inventory.model_validate(told | {"endpoints": [{"tier": "A", **e} for e in endpoints] + [gateway]} | more)


def engine(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "engine": kind, "url": "http://10.0.10.20:8000", "node": "mark", **more}


def written(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(rendered.text)
    return found


def entry(rendered: Rendered, group: str) -> dict[str, Any]:
    (found,) = [each for each in written(rendered)["model_list"] if each["model_name"] == group]
    return dict(found)


@pytest.mark.parametrize(
    ("kind", "model", "base", "key"),
    [
        ("ollama", "ollama_chat/m", "http://10.0.10.20:8000", None),
        ("llama.cpp", "openai/m", "http://10.0.10.20:8000/v1", "none"),
        ("vllm", "hosted_vllm/m", "http://10.0.10.20:8000/v1", "none"),
        ("lmstudio", "openai/m", "http://10.0.10.20:8000/v1", "none"),
        ("sglang", "openai/m", "http://10.0.10.20:8000/v1", "none"),
        ("openai", "openai/m", "http://10.0.10.20:8000/v1", "none"),
    ],
)
def test_each_engine_is_asked_as_litellm_must_ask_it(kind: str, model: str, base: str, key: str | None) -> None:
    params = entry(render(inventory(engine("e", kind)), {"e": [ModelInfo("m")]}), "m")["litellm_params"]
    assert (params["model"], params["api_base"], params.get("api_key")) == (model, base, key)


def test_an_embedding_model_serves_the_task_embed_and_no_other() -> None:
    found = render(
        inventory(engine("e", "ollama", tasks=["chat", "embed"])),
        {"e": [ModelInfo("nomic-embed-text:latest"), ModelInfo("qwen2.5:32b")]},
    )
    assert entry(found, "embed")["litellm_params"]["model"] == "ollama/nomic-embed-text:latest"
    assert entry(found, "embed")["model_info"]["mode"] == "embedding"
    assert entry(found, "chat")["litellm_params"]["model"] == "ollama_chat/qwen2.5:32b"


def test_keys_are_variables_never_values() -> None:
    cluster = inventory(
        engine("a", "llama.cpp", model="m", api_key="env:MARK_KEY"),
        engine("b/c", "vllm", model="n", api_key="pass:homelab/mark"),
    )
    found = render(cluster, {})
    assert entry(found, "m")["litellm_params"]["api_key"] == "os.environ/MARK_KEY"
    assert entry(found, "n")["litellm_params"]["api_key"] == "os.environ/B_C_KEY"
    assert dict(found.variables)["B_C_KEY"] == "the key of b/c, pass:homelab/mark"
    assert any("Set B_C_KEY" in remark for remark in found.remarks)
    assert "pass:" not in found.text


def test_a_task_prefers_as_the_router_does_and_falls_back_in_that_order() -> None:
    cluster = inventory(
        engine("a", "llama.cpp", model="small", tasks=["code"]),
        engine("b", "llama.cpp", model="large", tasks=["code"]),
        engine("c", "llama.cpp", model="other", tasks=["code"]),
        router={"code": ["b", "c", "a"]},
    )
    contexts = {"a": [ModelInfo("small", context=65536)], "b": [ModelInfo("large", context=8192)]}
    settings = written(found := render(cluster, contexts))["router_settings"]
    assert entry(found, "code")["litellm_params"]["model"] == "openai/large"
    assert settings["fallbacks"] == [{"code": ["other", "small"]}]
    assert settings["context_window_fallbacks"] == [{"code": ["small"]}]
    assert entry(found, "small")["model_info"]["max_input_tokens"] == 65536
    assert settings["enable_pre_call_checks"] is True


def test_a_model_at_two_endpoints_is_one_group_and_may_be_its_own_fallback() -> None:
    cluster = inventory(engine("a", "llama.cpp", model="m"), engine("b", "vllm", model="m", url="http://10.0.10.20:1"))
    document = written(render(cluster, {}))
    assert [each["model_name"] for each in document["model_list"]] == ["chat", "m", "m"]
    assert document["router_settings"]["fallbacks"] == [{"chat": ["m"]}]


def test_a_models_file_and_its_name_are_one_deployment() -> None:
    found = render(inventory(engine("a", "llama.cpp", model="tiny")), {"a": [ModelInfo("/models/tiny.gguf")]})
    assert found.groups == ("chat", "tiny")
    assert entry(found, "tiny")["litellm_params"]["model"] == "openai/tiny"


def test_limits_that_litellm_heeds() -> None:
    document = written(render(inventory(engine("a", "llama.cpp")), {}))
    settings = document["router_settings"]
    assert settings["allowed_fails"] != 3, "3 is LiteLLM's default, and counts as not set"
    assert document["general_settings"]["health_check_interval"] < settings["cooldown_time"]


def test_a_chain_longer_than_litellm_follows_says_so() -> None:
    names = [f"e{n}" for n in range(8)]
    cluster = inventory(*(engine(name, "llama.cpp", model=name, tasks=["code"]) for name in names))
    assert written(render(cluster, {}))["router_settings"]["max_fallbacks"] == 7


def test_addresses_are_as_the_gateway_reaches_them() -> None:
    beside = engine("a", "llama.cpp", url="http://localhost:1", node="gate", via="ssh", model="x")
    afar = engine("b", "llama.cpp", url="http://localhost:2", model="y")
    closed = engine("c", "llama.cpp", url="http://localhost:3", via="ssh", model="z")
    lone = engine("d", "llama.cpp", url="http://127.0.0.1:4", model="w")
    found = render(inventory(beside, afar, closed, lone), {})
    assert entry(found, "x")["litellm_params"]["api_base"] == "http://localhost:1/v1"
    assert entry(found, "y")["litellm_params"]["api_base"] == "http://10.0.10.20:2/v1"
    assert "z" not in found.groups
    assert any("c is left out: only SSH" in remark for remark in found.remarks)
    assert any("127.0.0.1 is the gateway's own machine" in remark for remark in found.remarks)


def test_what_is_not_known_is_left_out_and_told() -> None:
    found = render(inventory(engine("a", "vllm"), engine("b", "llama.cpp")), {})
    assert any("a is left out: it names no models" in remark for remark in found.remarks)
    assert found.groups == ("chat", "b")
    with pytest.raises(GatewayError, match="nothing to serve"):
        render(inventory(engine("a", "vllm")), {})


def test_names_are_quoted_whatever_they_are() -> None:
    found = render(inventory(engine("a", "vllm", model='no: "yes" # {x}')), {})
    assert entry(found, 'no: "yes" # {x}')["litellm_params"]["model"] == 'hosted_vllm/no: "yes" # {x}'


async def test_the_verb_writes_it_for_what_is_served_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERDECK_STATE", str(tmp_path / "state"))
    target = tmp_path / "out.yaml"
    async with demo(tmp_path / "sim", speed=50.0) as sim:
        cluster = ("--cluster", str(sim.inventory_path))
        once = await tierdeck("gateway", "render", *cluster, env=sim.secrets)
        again = await tierdeck("gateway", "render", "--json", *cluster, "--output", str(target), env=sim.secrets)
        wrong = await tierdeck("gateway", "render", *cluster, "--output", str(tmp_path / "no/file"), env=sim.secrets)
    assert once.code == 0, once.err
    told = json.loads(again.out)
    assert told["schema"] == "tierdeck.gateway-render/1"
    assert told["text"] == once.out == target.read_text()
    document = yaml.safe_load(once.out)
    assert {"chat", "code", "embed", "qwen2.5:32b"} <= {each["model_name"] for each in document["model_list"]}
    assert "LITELLM_MASTER_KEY" in once.err
    assert wrong.code == 1
    assert "cannot be written: No such file" in wrong.err
