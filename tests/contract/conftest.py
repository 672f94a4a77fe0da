"""What every contract has: its checks run on the simulator's part, and on the real one where the lab is."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends.engines.http import Http
from tests.contract.docker_parts import Dockers, RealDockers, SimulatedDockers
from tests.contract.litellm_parts import Gateway, RealGateway, simulated_gateway
from tests.contract.llama_parts import Llamas, RealLlamas, SimulatedLlamas
from tests.contract.ssh_parts import RealSshs, SimulatedSshs, Sshs
from tests.lab.fixtures import lab_docker, lab_model
from tests.lab.parts import require

__all__ = ["lab_docker", "lab_model"]

BOTH = ["simulated", pytest.param("real", marks=pytest.mark.lab)]


@pytest.fixture(autouse=True)
def _nobodys_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No SSH agent, whoever runs the tests."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with Http(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
        yield client


@pytest.fixture(params=BOTH)
def llamas(request: pytest.FixtureRequest, tmp_path: Path) -> Llamas:
    """Starts llama.cpp servers."""
    if request.param == "simulated":
        return SimulatedLlamas(tmp_path)
    require("llamacpp")
    return RealLlamas(tmp_path, request.getfixturevalue("lab_model"))


@pytest.fixture(params=BOTH)
def dockers(request: pytest.FixtureRequest, tmp_path: Path) -> Dockers:
    """Starts Docker Engines, or has one with containers on it."""
    if request.param == "simulated":
        return SimulatedDockers(tmp_path)
    require("docker")
    return RealDockers(tmp_path, request.getfixturevalue("lab_docker"))


@pytest.fixture(params=BOTH)
def sshs(request: pytest.FixtureRequest, tmp_path: Path) -> Sshs:
    """Starts SSH servers on a node with Docker."""
    if request.param == "simulated":
        return SimulatedSshs(tmp_path)
    require("sshd", "docker")
    return RealSshs(tmp_path, request.getfixturevalue("lab_docker"))


@pytest.fixture(scope="session")
def real_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGateway]:
    """LiteLLM's proxy before llama.cpp's own server; it takes so long to start that all its tests share it."""
    require("llamacpp", "litellm")
    with ExitStack() as stack:
        yield RealGateway.start(tmp_path_factory.mktemp("gateway"), stack)


@pytest.fixture(params=BOTH)
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A LiteLLM proxy with a model that answers and one that is dead."""
    if request.param == "real":
        yield request.getfixturevalue("real_gateway")
        return
    async with simulated_gateway(tmp_path) as found:
        yield found
