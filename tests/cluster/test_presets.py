"""From a deployment to what Docker is told, engine by engine and GPU by GPU."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, Literal

import pytest

from backends.cluster.deploying import Spec
from backends.cluster.presets import KEY_FILE, body
from backends.cluster.tables import Node
from backends.errors import ProcedureError

Gpus = Literal["nvidia", "amd", "apple", "none"]


def told(on: Gpus = "nvidia", **fields: Any) -> dict[str, Any]:
    """The body for a deployment."""
    plain = {"name": "coder", "node": "mark", "preset": "llama.cpp", "image": "llama:b1", "port": 3014}
    spec = Spec.model_validate({"version": 1, **plain, "model": "/m/a.gguf", **fields})
    return body(spec, Node(name="mark", address="10.0.0.2", gpus=on), "t0ken")


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_llama_cpp_on_nvidia() -> None:
    found = told(context=8192, api_key="env:KEY")
    host, words = found["HostConfig"], found["Cmd"]
    assert host["DeviceRequests"] == [{"Driver": "", "Capabilities": [["gpu"]], "Count": -1}]
    assert host["Mounts"] == [{"Type": "volume", "Source": "coder-models", "Target": "/models"}], "never a bind mount"
    assert host["PortBindings"] == {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "3014"}]}
    assert host["RestartPolicy"] == {"Name": "no"}, "the queue starts it, not Docker"
    assert found["Labels"] == {"tierdeck.deployment": "t0ken", "tierdeck.name": "coder"}
    assert (after(words, "--model"), after(words, "--ctx-size")) == ("/models/a.gguf", "8192")
    assert (after(words, "--api-key-file"), after(words, "--n-gpu-layers")) == (KEY_FILE, "999")
    assert "health" in found["Healthcheck"]["Test"][1]
    assert "Entrypoint" not in found


def test_without_a_key_it_is_not_open_to_everybody() -> None:
    assert told()["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"
    assert told(bind="10.0.0.2")["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostIp"] == "10.0.0.2"


@pytest.mark.parametrize(
    ("gpus", "wanted", "key", "value"),
    [
        ("nvidia", None, "DeviceRequests", [{"Driver": "", "Capabilities": [["gpu"]], "Count": -1}]),
        ("nvidia", [0, 2], "DeviceRequests", [{"Driver": "", "Capabilities": [["gpu"]], "DeviceIDs": ["0", "2"]}]),
        ("nvidia", "none", "DeviceRequests", None),
        ("none", None, "DeviceRequests", None),
        ("amd", None, "GroupAdd", ["video"]),
        ("apple", "none", "DeviceRequests", None),
    ],
)
def test_devices(gpus: Gpus, wanted: object, key: str, value: object) -> None:
    assert told(gpus, **({"gpus": wanted} if wanted else {}))["HostConfig"].get(key) == value


NVIDIA = {"DeviceRequests": [{"Driver": "", "Capabilities": [["gpu"]], "Count": -1}]}
AMD = {
    "Devices": [
        {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"} for path in ("/dev/kfd", "/dev/dri")
    ],
    "GroupAdd": ["video"],
    "SecurityOpt": ["seccomp=unconfined"],
}
MODELS: dict[str, dict[str, Any]] = {
    "llama.cpp": {"model": "/m/a.gguf"},
    "ollama": {"model": None, "pull": "qwen2.5:7b"},
    "vllm": {"model": "hf:org/repo@abc"},
    "litellm": {"model": "/m/config.yaml", "api_key": "env:KEY"},
}
STARTS: dict[tuple[str, Gpus], tuple[str, ...]] = {
    ("llama.cpp", "nvidia"): ("--n-gpu-layers", "999"),
    ("llama.cpp", "amd"): ("--n-gpu-layers", "999"),
    ("llama.cpp", "none"): ("--n-gpu-layers", "0"),
    ("vllm", "nvidia"): ("--gpu-memory-utilization", "0.9"),
    ("vllm", "amd"): ("--gpu-memory-utilization", "0.9"),
}
"""What the arguments have beside the model, by preset and vendor."""


@pytest.mark.parametrize("preset", MODELS)
@pytest.mark.parametrize(("gpus", "devices"), [("nvidia", NVIDIA), ("amd", AMD), ("none", {}), ("apple", None)])
def test_every_preset_on_every_vendor(preset: str, gpus: Gpus, devices: dict[str, Any] | None) -> None:
    if preset == "litellm":
        devices = {}
    if devices is None:
        with pytest.raises(
            ProcedureError, match=r'Run the engine natively there .*, or say gpus = "none" to run it on'
        ):
            told(gpus, preset=preset, **MODELS[preset])
        assert "DeviceRequests" not in told(gpus, preset=preset, gpus="none", **MODELS[preset])["HostConfig"]
        return
    found = told(gpus, preset=preset, **MODELS[preset])
    shared = {"ShmSize": 8 << 30} if preset == "vllm" else {}
    named = {"Mounts", "PortBindings", "RestartPolicy"}
    assert {key: value for key, value in found["HostConfig"].items() if key not in named} == devices | shared
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    assert [mount["Type"] for mount in found["HostConfig"]["Mounts"]] == ["volume"]
    starts = STARTS.get((preset, gpus), ())
    assert not starts or starts in list(pairwise(found["Cmd"]))
    assert ("--gpu-memory-utilization" in found["Cmd"]) is (preset == "vllm" and gpus != "none")


@pytest.mark.parametrize(
    ("wanted", "paths"), [("all", ["/dev/kfd", "/dev/dri"]), ([1], ["/dev/kfd", "/dev/dri/renderD129"])]
)
def test_amd_gets_its_devices(wanted: object, paths: list[str]) -> None:
    assert [each["PathOnHost"] for each in told("amd", gpus=wanted)["HostConfig"]["Devices"]] == paths


def test_on_the_cpu_no_layer_goes_to_a_gpu() -> None:
    assert after(told("none")["Cmd"], "--n-gpu-layers") == "0"


def test_apple_is_refused_with_the_reason() -> None:
    with pytest.raises(ProcedureError, match=r"mark has an Apple GPU, and no container can use it.*natively"):
        told("apple")


def test_vllm_with_lmcache_on_two_gpus() -> None:
    found = told(
        preset="vllm", model="hf:org/repo@abc", gpus=[0, 1], offload="16GiB", utilisation=0.8, context=4096,
        api_key="env:KEY",
    )  # fmt: skip
    words = found["Cmd"]
    assert (after(words, "--model"), after(words, "--served-model-name")) == ("/models/repo", "coder")
    assert (after(words, "--tensor-parallel-size"), after(words, "--gpu-memory-utilization")) == ("2", "0.8")
    connector = json.loads(after(words, "--kv-transfer-config"))
    assert connector == {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    assert {"LMCACHE_LOCAL_CPU=True", "LMCACHE_MAX_LOCAL_CPU_SIZE=17.2", "LMCACHE_CHUNK_SIZE=256"} <= set(found["Env"])
    assert found["HostConfig"]["ShmSize"] == 8 << 30
    assert KEY_FILE in found["Entrypoint"][2]
    assert not [each for each in found["Env"] if "KEY" in each], "the key is in a file"


def test_vllm_alone() -> None:
    found = told(preset="vllm", model="hf:org/repo@abc")
    assert not {"--tensor-parallel-size", "--kv-transfer-config"} & set(found["Cmd"])
    assert found["Entrypoint"][:2] == ["python3", "-m"]


def test_ollama() -> None:
    found = told(preset="ollama", model=None, pull="qwen2.5:7b", keep_alive="30m", context=8192, parallel=2)
    assert set(found["Env"]) == {
        "OLLAMA_HOST=0.0.0.0:11434", "OLLAMA_MODELS=/models/ollama", "OLLAMA_NUM_PARALLEL=2",
        "OLLAMA_CONTEXT_LENGTH=8192", "OLLAMA_KEEP_ALIVE=1800s",
    }  # fmt: skip


def test_litellm_needs_no_gpu() -> None:
    found = told(preset="litellm", model="/srv/config.yaml", api_key="env:KEY")
    assert "DeviceRequests" not in found["HostConfig"]
    assert after(found["Cmd"], "--config") == "/models/config.yaml"
    assert "LITELLM_MASTER_KEY" in found["Entrypoint"][2]
    assert found["Entrypoint"][-1] == "litellm"
    assert found["Env"] == []


def test_what_a_person_adds_counts_last() -> None:
    found = told(arguments=["--no-mmap"], environment={"LLAMA_LOG_COLORS": "0"})
    assert found["Cmd"][-1] == "--no-mmap"
    assert found["Env"] == ["LLAMA_LOG_COLORS=0"]
