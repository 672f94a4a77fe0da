"""Rendered documents against the documented shapes of Kubernetes and the charts, and what a posture report says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from backends.errors import ProcedureError
from backends.exports.charts import app_template, vllm_chart
from backends.exports.manifests import manifests
from backends.exports.routed import llm_d, remarks
from tests.exports.shapes import APP_TEMPLATE, KINDS, PICKER, POOL, VLLM_CHART, strange
from tests.exports.test_kubernetes import LLAMA, NODE, VLLM, parts, spec

OLLAMA = {"version": 1, "name": "pulled", "node": "gpu-1", "preset": "ollama", "port": 3013, "image": "ollama/ollama:1",
          "pull": "qwen2.5:0.5b"}  # fmt: skip
LITELLM = {"version": 1, "name": "door", "node": "gpu-1", "preset": "litellm", "port": 4000, "api_key": "env:K",
           "image": "litellm:1", "model": "https://files.example/config.yaml"}  # fmt: skip
ALL = pytest.mark.parametrize("base", [LLAMA, VLLM, OLLAMA, LITELLM], ids=["llama.cpp", "vllm", "ollama", "litellm"])
MORE = pytest.mark.parametrize("more", [{}, {"on_demand": True}], ids=["always", "on-demand"])


@ALL
@MORE
def test_manifests_are_as_kubernetes_documents_them(base: dict[str, Any], more: dict[str, Any]) -> None:
    found = parts(manifests(spec(base, **more), NODE, namespace="llm", storage="5Gi", storage_class="fast"))
    assert [line for kind, each in found.items() for line in strange(each, KINDS[kind], kind)] == []
    outer = found["Deployment"]["spec"]
    assert outer["selector"]["matchLabels"].items() <= outer["template"]["metadata"]["labels"].items()


@ALL
def test_a_posture_report_finds_no_rights_that_are_not_needed(base: dict[str, Any]) -> None:
    found = parts(manifests(spec(base), NODE, namespace="llm", storage="5Gi"))
    for kind in {"Deployment", "Job"} & found.keys():
        pod = found[kind]["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod.get("nodeSelector") or pod.get("affinity")
        for each in [*pod["containers"], *pod.get("initContainers", [])]:
            rights = each["securityContext"]
            assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (False, {"drop": ["ALL"]})
            assert each["image"].rpartition(":")[2] not in ("latest", each["image"])
    if "Job" in found and base is not VLLM:  # its image is the engine's own, which expects to be root
        pod = found["Job"]["spec"]["template"]["spec"]
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 65532)
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["containers"][0]["resources"]["limits"]
    (engine,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= engine.keys()


@ALL
@MORE
def test_values_are_as_the_app_template_documents_them(base: dict[str, Any], more: dict[str, Any]) -> None:
    found = yaml.safe_load(app_template(spec(base, **more), NODE, storage="5Gi", storage_class="fast"))
    assert list(strange(found, APP_TEMPLATE)) == []
    for each in found["persistence"].values():
        assert each["type"] != "persistentVolumeClaim" or {"accessMode", "size"} <= each.keys()


@MORE
def test_values_are_as_the_vllm_chart_documents_them(more: dict[str, Any]) -> None:
    found = yaml.safe_load(vllm_chart(spec(VLLM, **more), NODE, storage="5Gi", storage_class="fast"))
    assert list(strange(found, VLLM_CHART)) == []
    (model,) = found["servingEngineSpec"]["modelSpec"]
    assert model["requestMemory"] == f"{8 * 1024 + 2 * 16 * 1024}Mi", "LMCache keeps its size for each of two workers"


def test_llm_d_routes_to_the_pods_of_a_deployment() -> None:
    made = spec(VLLM, arguments=None)
    found = yaml.safe_load(llm_d(made, NODE))
    assert list(strange(found, POOL)) == []
    chosen = found["inferencePool"]["modelServers"]["matchLabels"]
    outer = parts(manifests(made, NODE, namespace="llm", storage="5Gi"))["Deployment"]["spec"]
    assert chosen.items() <= outer["template"]["metadata"]["labels"].items()
    (engine,) = outer["template"]["spec"]["containers"]
    assert found["inferencePool"]["targetPorts"] == [{"number": engine["ports"][0]["containerPort"]}]
    extension = found["inferenceExtension"]
    picker = yaml.safe_load(extension["pluginsCustomConfig"][extension["pluginsConfigFile"]])
    assert list(strange(picker, PICKER)) == []
    named = {plugin["type"] for plugin in picker["plugins"]}
    assert {each["pluginRef"] for each in picker["schedulingProfiles"][0]["plugins"]} == named
    with pytest.raises(ProcedureError, match=r"served by llama\.cpp, and llm-d routes to vLLM"):
        llm_d(spec(LLAMA), NODE)
    with pytest.raises(ProcedureError, match="prefix-cache-scorer sends prompts to where their beginning"):
        llm_d(spec(VLLM, arguments=["--no-enable-prefix-caching"]), NODE)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ["may lack LMCache"]),
        ({"image": "lmcache/vllm-openai:v0.3"}, []),
        ({"offload": None, "image": "vllm/vllm-openai:v1", "arguments": ["--kv-transfer-config", "{}"]}, ["may lack"]),
        ({"image": "lmcache/vllm-openai:v0.3", "arguments": ["--kv-transfer-config={}"]}, ["the last one counts"]),
        ({"image": "lmcache/vllm-openai:v0.3", "gpus": "none"}, ["it gets no GPU"]),
        ({"image": "lmcache/vllm-openai:v0.3", "arguments": ["--no-enable-prefix-caching"]}, ["against each other"]),
        ({"offload": None, "image": "vllm/vllm-openai:v1", "arguments": None}, []),
    ],
)
def test_what_does_not_fit_together_is_told(changed: dict[str, Any], words: list[str]) -> None:
    found = list(remarks(spec(VLLM, **changed), NODE))
    assert [word for word, line in zip(words, found, strict=True) if word not in line] == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, [".a: missing"]),
        ({"a": 1}, []),
        ({"a": True}, [".a: True is no <class 'int'>"]),
        ({"a": 1, "c": 2}, [".c: unknown"]),
        ({"a": 1, "b": ["x", "z"]}, [".b[1]: 'z' is none of ['x', 'y']"]),
        ({"a": 1, "b": {}}, [".b: no list"]),
        ([], [": no mapping"]),
    ],
)
def test_what_is_strange_is_found(value: Any, said: list[str]) -> None:
    assert list(strange(value, {"a!": int, "b": [{"x", "y"}]})) == said
