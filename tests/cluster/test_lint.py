"""What is said of containers as Docker inspects them; and that no secret is ever among it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.cluster.lint import Seen, lint
from tests.cluster.test_presets import told

SECRET = "sk-verysecret-123"


def seen(*, desktop: bool = False, sizes: dict[str, int] | None = None, **changes: Any) -> Seen:
    """A container that nothing is to be said of, but for the changes."""
    config = {
        "Image": "ggml-org/llama.cpp:server-cuda-b11549", "Env": ["PATH=/bin"], "Entrypoint": ["/app/llama-server"],
        "Cmd": ["--model", "/models/a.gguf", "--api-key-file", "/etc/k"], "Healthcheck": {"Test": ["CMD", "curl"]},
    }  # fmt: skip
    host: dict[str, Any] = {
        "RestartPolicy": {"Name": "no"}, "DeviceRequests": [{"Capabilities": [["gpu"]]}],
        "PortBindings": {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "3009"}]},
    }  # fmt: skip
    config |= {key: value for key, value in changes.items() if key in config}
    host |= {key: value for key, value in changes.items() if key not in config}
    return Seen("mark", {"Name": "/mark-i", "Config": config, "HostConfig": host}, desktop, sizes)


OPEN = {"8000/tcp": [{"HostIp": "", "HostPort": "8000"}]}
LOCAL = {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, []),
        ({"RestartPolicy": {"Name": "unless-stopped"}}, ["restart-policy"]),
        ({"RestartPolicy": {"Name": "on-failure"}}, ["restart-policy"]),
        ({"RestartPolicy": {"Name": "always"}, "DeviceRequests": None, "Image": "nginx:1.29", "Cmd": [],
          "Entrypoint": ["nginx"]}, []),
        ({"Cmd": ["--model", "/models/a.gguf"]}, ["no-key"]),
        ({"Cmd": ["--model", "/models/a.gguf"], "PortBindings": LOCAL}, []),
        ({"Cmd": ["--model", "/m"], "Image": "vllm/vllm-openai:v0.32.0", "PortBindings": OPEN}, ["no-key"]),
        ({"Cmd": ["--model", "/m", "--api-key=x"], "Image": "vllm/vllm-openai:v0.32.0", "PortBindings": OPEN}, []),
        ({"Image": "berriai/litellm:v1.109.1", "Entrypoint": None, "DeviceRequests": None}, ["no-master-key"]),
        ({"Env": [f"OPENAI_API_KEY={SECRET}", "MAX_TOKENS=5"]}, ["plaintext-key"]),
        ({"Env": ["OPENAI_API_KEY=os.environ/KEY", "KEY_FILE=/run/key", "TOKENIZERS_PARALLELISM=true"]}, []),
        ({"Image": "ggml-org/llama.cpp:latest"}, ["latest"]),
        ({"Image": "ollama/ollama", "Entrypoint": None, "Cmd": ["serve"]}, ["latest"]),
        ({"Image": "host:5000/llama-cuda"}, ["latest"]),
        ({"Image": "llama@sha256:0123"}, []),
        ({"Healthcheck": None}, ["no-healthcheck"]),
        ({"Healthcheck": {"Test": ["NONE"]}}, ["no-healthcheck"]),
        ({"DeviceRequests": None}, ["no-gpu"]),
        ({"DeviceRequests": None, "Runtime": "nvidia"}, []),
        ({"DeviceRequests": None, "Devices": [{"PathOnHost": "/dev/kfd"}]}, []),
        ({"desktop": True, "sizes": {"/models/a.gguf": 4_000_000_000}}, ["bind-mount"]),
        ({"desktop": True, "sizes": {"/models/a.gguf": 1_000_000_000}}, []),
        ({"sizes": {"/models/a.gguf": 4_000_000_000}}, []),
    ],
)  # fmt: skip
def test_what_is_said(changes: dict[str, Any], rules: list[str]) -> None:
    found = lint([seen(**changes)])
    assert [remark.rule for remark in found] == rules
    assert SECRET not in str(found)
    assert all(remark.why and remark.cure and remark.container == "mark-i" for remark in found)


def test_garbage_is_no_container_of_anybodys() -> None:
    odd: tuple[dict[str, Any], ...] = ({}, {"Config": None, "HostConfig": []}, {"Config": {"Env": 3, "Cmd": "x"}})
    for garbage in (*odd, {"Name": None}):
        assert lint([Seen("mark", garbage)]) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": "env:K", "image": "ggml-org/llama.cpp:b1"},
        {"preset": "vllm", "model": "hf:org/repo@abc", "api_key": "env:K", "image": "vllm/vllm-openai:v1"},
        {"preset": "ollama", "model": None, "pull": "m", "image": "ollama/ollama:0.20"},
        {"preset": "litellm", "model": "/c.yaml", "api_key": "env:K", "image": "berriai/litellm:v1"},
    ],
)
def test_nothing_is_said_of_what_the_presets_make(fields: dict[str, Any]) -> None:
    made = told(**fields)
    shown = {"Name": "/coder", "Config": {**made, "HostConfig": None}, "HostConfig": made["HostConfig"]}
    assert lint([Seen("mark", shown)]) == []
