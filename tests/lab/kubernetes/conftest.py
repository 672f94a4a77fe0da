"""The control plane that the tests of this folder share, and nodes of each test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.lab.cache import require
from tests.lab.kubernetes.control import ControlPlane
from tests.lab.kubernetes.kubelets import Nodes, playing


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    require("kubernetes", "netns")
    with ControlPlane(tmp_path_factory.mktemp("plane")) as made:
        yield made


@pytest.fixture
async def nodes(plane: ControlPlane) -> AsyncIterator[Nodes]:
    """A cluster of nothing but the namespace `llm`, once all that the test before left there is gone."""
    async with playing(plane) as made:
        await made.swept()
        yield made


@pytest.fixture
def kubeconfig(plane: ControlPlane, tmp_path: Path) -> Path:
    """One that may everything."""
    return plane.kubeconfig(tmp_path)
