"""What Docker answers and tells, mangled."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given

from backends.reach import docker_words
from backends.reach.docker import _json
from tests.fuzz.strategies import DEEP, bounded, grafts, json_of, tried

INSPECTED: dict[str, Any] = {
    "Id": "ab" * 32, "Name": "/mark-v", "Image": "sha256:" + "cd" * 32,
    "Args": ["-m", "/models/m.gguf", "--api-key", "x"],
    "State": {
        "Status": "exited", "ExitCode": 137, "OOMKilled": True, "Error": "", "Health": {"Status": "starting"},
        "StartedAt": "2026-11-21T09:03:16.123456789Z",
    },
    "Config": {
        "Image": "llama.cpp:server", "Env": ["NVIDIA_VISIBLE_DEVICES=all"], "Entrypoint": ["/server"],
        "Cmd": ["-c", "8192"],
        "Tty": False, "Labels": {"tierdeck.tier": "REMOTE"},
    },
    "HostConfig": {
        "Runtime": "nvidia", "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "DeviceRequests": [{"Capabilities": [["gpu"]], "DeviceIDs": ["0"]}], "Devices": [{"PathOnHost": "/dev/kfd"}],
        "PortBindings": {"8000/tcp": [{"HostIp": "", "HostPort": "3009"}]},
    },
    "Mounts": [{"Type": "volume", "Name": "models-vol", "Source": "/v", "Destination": "/models"}],
    "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "3009"}]}},
}  # fmt: skip
EVENT = {
    "Type": "container", "Action": "health_status: healthy", "time": 1795249964, "timeNano": 1795249964000000001,
    "Actor": {"ID": "ab" * 32, "Attributes": {"name": "mark-v", "image": "llama.cpp:server"}},
}  # fmt: skip


def taken_in(payload: object) -> None:
    """Read it in every way in which such an answer is read."""
    docker_words.workload(payload)
    docker_words.event(payload)
    docker_words.restart_policy(payload)
    docker_words.labels(payload)
    docker_words.has_terminal(payload)
    docker_words.mounted([payload], "models-vol")
    docker_words.mounted(payload, "models-vol")


def test_any_value_may_be_odd() -> None:
    for document in (INSPECTED, EVENT, {**EVENT, "timeNano": None}):
        for changed in grafts(document):
            taken_in(json.loads(json.dumps(changed)))


@tried
@given(json_of(INSPECTED) | json_of(EVENT))
def test_a_line_of_events_may_be_anything(raw: bytes) -> None:
    taken_in(_json(raw.decode("utf-8", "replace")))


def test_names_and_states_are_printable() -> None:
    hostile = json.loads(
        json.dumps(INSPECTED).replace("mark-v", "\\u001b]0;owned\\u0007").replace("llama", "\\u001b[2J")
    )
    found = docker_words.workload(hostile)
    assert all(text.isprintable() for text in (found.name, found.image, found.error, found.digest, *found.arguments))


def test_nor_does_it_take_for_ever() -> None:
    for payload in (
        {**INSPECTED, "Args": ["x" * 1000] * 10**4},
        {**INSPECTED, "Mounts": [{"Name": "x"}] * 10**5},
        {"HostConfig": {"PortBindings": {str(n): [{"HostPort": str(n)}] for n in range(10**5)}}},
    ):
        bounded(lambda payload=payload: taken_in(payload))
    bounded(lambda: _json("[" * DEEP))
