"""Fixtures of the lab; other folders get them by importing this module's names in their conftest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cache import require
from tests.lab.cluster import LabCluster, start_cluster
from tests.lab.deadnode import DeadNode, start_dead_node
from tests.lab.engine import DockerEngine
from tests.lab.models import tiny_gguf
from tests.lab.servers import OpenSsh


@pytest.fixture(scope="session")
def lab_docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """A Docker Engine with nothing on it; remove what you create, and start your own to break one."""
    require("docker")
    with DockerEngine(tmp_path_factory.mktemp("docker")) as engine:
        yield engine


@pytest.fixture(scope="session")
def lab_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that chats."""
    require("llamacpp")
    return tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def lab_sshd(tmp_path: Path) -> Iterator[OpenSsh]:
    """An OpenSSH server of this test's own."""
    require("sshd")
    with OpenSsh(tmp_path / "sshd") as server:
        yield server


@pytest.fixture(scope="session")
def lab_cluster_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabCluster]:
    """The cluster that all tests share; ask for `lab_cluster` instead."""
    require("docker", "sshd", "llamacpp", "litellm")
    with start_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def lab_cluster(lab_cluster_once: LabCluster, monkeypatch: pytest.MonkeyPatch) -> LabCluster:
    """Three llama.cpp containers behind SSH and LiteLLM in front, all of it healthy, its key in the environment."""
    for name, value in lab_cluster_once.env.items():
        monkeypatch.setenv(name, value)
    lab_cluster_once.heal()
    return lab_cluster_once


@pytest.fixture(scope="session")
def dead_node_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeadNode]:
    """The node that all tests share; ask for `dead_node` instead."""
    require("docker", "sshd", "llamacpp", "rdp", "netns")
    with start_dead_node(tmp_path_factory.mktemp("dead")) as node:
        yield node


@pytest.fixture
def dead_node(dead_node_once: DeadNode, monkeypatch: pytest.MonkeyPatch) -> DeadNode:
    """A node in a network namespace that can die in five ways; whole and well, its password in the environment."""
    for name, value in dead_node_once.env.items():
        monkeypatch.setenv(name, value)
    dead_node_once.heal()
    return dead_node_once
