"""The API double, and a way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.tables import Cluster
from backends.reach.kubernetes.access import Login, find
from backends.reach.kubernetes.api import KubernetesApi
from tests.kubernetes.double import Double, serving


def api_of(path: Path, **options: Any) -> KubernetesApi:
    """The API that a kubeconfig leads to."""
    table = Cluster(name="home", kubeconfig=str(path))
    return KubernetesApi("home", lambda: find(table, Login()), **options)


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    async with serving(Double()) as made:
        yield made


@pytest.fixture
async def api(double: Double, tmp_path: Path) -> AsyncIterator[KubernetesApi]:
    made = api_of(double.kubeconfig(tmp_path))
    yield made
    await made.close()
