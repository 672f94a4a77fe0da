"""The program on real parts: what `tierdeck` says and does on llama.cpp in Docker behind SSH, LiteLLM in front."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cache import require
from tests.lab.cluster import NAMES, LabCluster, start_cluster


def tierdeck(cluster: LabCluster, state: Path, *words: str, limit: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person's script would."""
    environment = {**os.environ, **cluster.env, "TIERDECK_CLUSTER": str(cluster.config), "TIERDECK_STATE": str(state)}
    return subprocess.run(
        [sys.executable, "-m", "tui.cli", *words], env=environment, capture_output=True, text=True, timeout=limit
    )


def status(cluster: LabCluster, state: Path) -> tuple[dict[str, Any], int]:
    done = tierdeck(cluster, state, "status", "--json")
    return json.loads(done.stdout), done.returncode


def endpoint(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(e for tier in data["tiers"] for e in tier["endpoints"] if e["name"] == name)


def test_a_healthy_lab_is_healthy(lab_cluster: LabCluster, tmp_path: Path) -> None:
    data, code = status(lab_cluster, tmp_path)
    assert (data["prognosis"]["state"], code) == ("HEALTHY", 0), data
    assert [n["error"] for n in data["nodes"]] == [None, None]
    assert endpoint(data, "remote/mark-i")["models"] == ["mark-i"]
    assert data["prognosis"]["tasks"]["chat"] == {"now": "remote/mark-i", "next": ["remote/mark-ii", "remote/mark-iii"]}


def test_a_killed_container_is_down_refused_and_nothing_else_is(lab_cluster: LabCluster, tmp_path: Path) -> None:
    lab_cluster.engine.docker("kill", "mark-ii")
    data, code = status(lab_cluster, tmp_path)
    verdicts = {e["name"]: (e["verdict"], e["cause"]) for tier in data["tiers"] for e in tier["endpoints"]}
    assert verdicts == {
        "remote/mark-i": ("UP", "OK"),
        "remote/mark-ii": ("DOWN", "REFUSED"),
        "remote/mark-iii": ("UP", "OK"),
        "gateway/litellm": ("UP", "OK"),
    }
    assert (data["prognosis"]["state"], code) == ("DEGRADED", 1)


def test_without_ssh_the_endpoints_are_still_judged(lab_cluster: LabCluster, tmp_path: Path) -> None:
    lab_cluster.ssh.end("KILL")
    data, code = status(lab_cluster, tmp_path)
    assert code == 0
    assert "SSH" in data["nodes"][0]["error"]
    assert endpoint(data, "remote/mark-i")["verdict"] == "UP"


def test_without_docker_the_node_says_so(lab_cluster: LabCluster, tmp_path: Path) -> None:
    lab_cluster.engine.kill()
    data, _ = status(lab_cluster, tmp_path)
    assert "Docker" in data["nodes"][0]["error"]


def test_the_queue_starts_what_is_down_and_leaves_the_rest_alone(lab_cluster: LabCluster, tmp_path: Path) -> None:
    before = {n: lab_cluster.engine.docker("inspect", "--format", "{{.State.StartedAt}}", n) for n in NAMES}
    lab_cluster.engine.docker("kill", "mark-i", "mark-iii")
    done = tierdeck(lab_cluster, tmp_path, "queue", "run", "mark", "--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(row) for row in done.stdout.splitlines()]
    assert (events[-1]["event"], events[-1]["outcome"]) == ("finished", "done")
    assert all(lab_cluster.healthy(name) for name in NAMES)
    after = {n: lab_cluster.engine.docker("inspect", "--format", "{{.State.StartedAt}}", n) for n in NAMES}
    assert after["mark-ii"] == before["mark-ii"]
    assert after["mark-i"] < after["mark-iii"]


def test_a_prompt_is_answered_directly_and_through_the_gateway(lab_cluster: LabCluster, tmp_path: Path) -> None:
    for target, expected in (("remote/mark-ii", "remote/mark-ii"), ("gateway/litellm", "gateway/litellm")):
        words = ("route", "--send", "--json", "--target", target, "hello")
        done = tierdeck(lab_cluster, tmp_path, *words)
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        assert data["chosen"]["endpoint"] == expected
        assert data["answer"]
        assert data["first_token_s"] > 0


def test_doctor_finds_nothing_bad(lab_cluster: LabCluster, tmp_path: Path) -> None:
    done = tierdeck(lab_cluster, tmp_path, "doctor", "--json")
    bad = [f for f in json.loads(done.stdout)["findings"] if f["state"] == "bad"]
    assert (bad, done.returncode) == ([], 0)


@pytest.fixture(scope="module")
def deadlocking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabCluster]:
    """A cluster whose containers deadlock when they are started together, as CUDA does."""
    require("docker", "sshd", "llamacpp", "litellm")
    with start_cluster(tmp_path_factory.mktemp("deadlocking"), lock=1.5) as cluster:
        yield cluster


def test_started_together_they_hang_and_by_the_queue_they_all_serve(deadlocking: LabCluster, tmp_path: Path) -> None:
    docker = deadlocking.engine.docker
    docker("kill", *NAMES)
    docker("start", *NAMES)
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert not any(deadlocking.healthy(name) for name in NAMES)
        time.sleep(0.5)
    docker("kill", *NAMES)
    done = tierdeck(deadlocking, tmp_path, "queue", "run", "mark", "--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(deadlocking.healthy(name) for name in NAMES)
