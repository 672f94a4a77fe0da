from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from backends.reach import docker_words as words

GPU = {"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]}


@pytest.mark.parametrize(
    ("host", "environment", "gpu"),
    [
        (GPU, None, True),
        ({"DeviceRequests": [{"Driver": "nvidia", "Capabilities": [["utility"], ["compute", "gpu"]]}]}, None, True),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]}, None, True),
        ({"DeviceRequests": [{"Driver": "x", "Capabilities": [["tpu"]]}]}, None, False),
        ({"DeviceRequests": None}, None, False),
        ({"DeviceRequests": ["odd", {"Capabilities": "gpu"}]}, None, False),
        ({"Runtime": "nvidia"}, ["PATH=/", "NVIDIA_VISIBLE_DEVICES=all"], True),
        ({"Runtime": "nvidia"}, ["NVIDIA_VISIBLE_DEVICES=0,1"], True),
        ({"Runtime": "nvidia"}, ["NVIDIA_VISIBLE_DEVICES=void"], False),
        ({"Runtime": "nvidia"}, ["NVIDIA_VISIBLE_DEVICES="], False),
        ({"Runtime": "nvidia"}, None, False),
        ({"Runtime": "runc"}, ["NVIDIA_VISIBLE_DEVICES=all"], False),
        ({"Devices": [{"PathOnHost": "/dev/kfd"}]}, None, True),
        ({"Devices": [{"PathOnHost": "/dev/dri/renderD128"}]}, None, True),
        ({"Devices": [{"PathOnHost": "/dev/nvidia0"}]}, None, True),
        ({"Devices": [{"PathOnHost": "/dev/ttyUSB0"}, {}, None]}, None, False),
        ({}, None, False),
    ],
)
def test_uses_gpu(host: dict[str, Any], environment: object, gpu: bool) -> None:
    assert words.uses_gpu(host, environment) is gpu


def test_a_command_line_is_kept_without_its_secrets() -> None:
    given = ["-m", "/m.gguf", "--api-key", "sk-1", "--port", "80", "--hf-token=hf_1", "--PASSWORD", "x", "-ngl", "99"]
    kept = ("-m", "/m.gguf", "--api-key", "***", "--port", "80", "--hf-token=***", "--PASSWORD", "***", "-ngl", "99")
    assert words.without_secrets(given) == kept
    found = words.workload(
        {
            "Image": "sha256:12", "Args": given[:2],
            "Mounts": [
                {"Type": "volume", "Name": "models-vol", "Source": "/var/lib/x", "Destination": "/models"},
                {"Type": "bind", "Source": "/srv", "Destination": "/data"}, "odd",
            ],
        }
    )  # fmt: skip
    assert (found.digest, found.arguments) == ("sha256:12", ("-m", "/m.gguf"))
    assert found.mounts == ("/srv:/data", "?:?", "models-vol:/models")


def test_workload_of_a_container_that_died() -> None:
    found = words.workload(
        {
            "Id": "ab" * 32,
            "Name": "/mark-i",
            "State": {
                "Status": "exited", "ExitCode": 137, "OOMKilled": True, "Error": "\x1b[31mno\nmemory",
                "StartedAt": "2026-11-21T09:36:19.489118208Z", "Health": {"Status": "unhealthy"},
            },
            "HostConfig": GPU | {
                "RestartPolicy": {"Name": "unless-stopped"},
                "PortBindings": {"8000/tcp": [{"HostIp": "", "HostPort": "3009"}, {"HostPort": ""}], "53/udp": None},
            },
            "Config": {"Image": "llama:b1", "Env": None},
            "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "3009"}]}},
        }
    )  # fmt: skip
    assert (found.name, found.state, found.exit_code, found.oom_killed) == ("mark-i", "exited", 137, True)
    assert (found.error, found.health, found.ports, found.image) == ("no", "unhealthy", (3009,), "llama:b1")
    assert found.restart_policy == "unless-stopped"
    assert found.gpu
    assert found.started_at == pytest.approx(1795253779.489118)


@pytest.mark.parametrize("payload", [None, [], {}, {"State": "running"}, {"State": {"Status": 5}, "HostConfig": []}])
def test_workload_of_nonsense_is_dead_and_harmless(payload: object) -> None:
    assert words.workload(payload).state == "dead"


def test_a_running_container_has_no_exit_code() -> None:
    assert words.workload({"State": {"Status": "running", "ExitCode": 0}}).exit_code is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-21T09:36:19.5Z", 1795253779.5),
        ("2026-11-21T10:36:19+01:00", 1795253779.0),
        ("0001-01-01T00:00:00Z", None),
        ("2026-13-41T09:36:19Z", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_timestamp(text: object, seconds: float | None) -> None:
    assert words.timestamp(text) == seconds


def test_event() -> None:
    payload = {"Type": "container", "Action": "health_status: unhealthy", "time": 7}
    payload["Actor"] = {"ID": "x", "Attributes": {"name": "mark-i"}}
    found = words.event(payload)
    assert found is not None
    assert (found.action, found.name, found.at, found.id) == ("health", "mark-i", 7.0, "x")
    assert words.event(payload | {"Type": "network"}) is None
    assert words.event({"Type": "container", "Action": 5}) is None
    assert words.event("text") is None


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "nvidia-container-toolkit on mark"),
        ("Bind for 0.0.0.0:3009 failed: port is already allocated", "docker ps"),
        ("listen tcp4 0.0.0.0:3009: bind: address already in use", "ss -ltnp"),
        ("mkdir /var/lib/docker: no space left on device", "docker system df"),
        ("Got permission denied while trying to connect", "usermod -aG docker USER on mark"),
        ("client version 1.41 is too old", "the next try"),
        ("nvidia-container-cli: initialization error: nvml error", "reboot"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "systemctl start docker"),
        ("bash: line 1: docker: command not found", "docker = false"),
        ("something new", ""),
    ],
)
def test_refusals_keep_dockers_words_and_add_advice(said: str, advice: str) -> None:
    failure = words.refusal("mark", 500, said)
    assert said in failure.message
    assert advice in failure.advice
    assert "{node}" not in failure.advice
    assert failure.status == 500


def test_a_cause_on_the_second_line_is_kept() -> None:
    said = "OCI runtime create failed: exit status 1\n\x1b[31mnvidia-container-cli: nvml error: unknown"
    assert words.refusal("mark", 500, said).message.endswith("exit status 1 nvidia-container-cli: nvml error: unknown")


@pytest.mark.parametrize(
    ("number", "says", "advice"),
    [
        (errno.ENOENT, "there is no socket /s", "installed"),
        (errno.EACCES, "permission denied on /s", "usermod"),
        (errno.ECONNREFUSED, "/s refuses connections", "systemctl start docker"),
        (errno.ECONNRESET, "broke off", "restarted"),
    ],
)
def test_no_answer(number: int, says: str, advice: str) -> None:
    failure = words.no_answer("mark", "/s", OSError(number, os.strerror(number)))
    assert says in failure.message
    assert advice in failure.advice
