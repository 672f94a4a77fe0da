"""How far llama.cpp's router has loaded a model, by its own events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from backends.cluster.words import Cause
from backends.engines.http import Http
from backends.engines.loading import _share, shares
from backends.engines.target import ProbeFailure, Target
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.router import LlamaRouter
from tests.engines.servers import Canned, Reply, listening


def event(model: str = "m", **progress: object) -> str:
    return json.dumps({"model": model, "event": "status_change", "data": {"status": "loading", "progress": progress}})


@pytest.mark.parametrize(
    ("text", "wanted", "share"),
    [
        (event(stages=["text_model"], current="text_model", value=0.5), None, 0.5),
        (event(stages=["text_model"], current="text_model", value=0.5), "m", 0.5),
        (event(stages=["text_model"], current="text_model", value=0.5), "other", None),
        (event(stages=["text_model", "mmproj"], current="mmproj", value=0.5), None, 0.75),
        (event(stages=["text_model", "mmproj"], current="unheard of", value=0.5), None, 0.25),
        (event(stages=[], current="x", value=1), None, 1.0),
        (event(value=0.25), None, 0.25),
        (event(value="much"), None, None),
        (event(value=float("nan")), None, None),
        (event(value=-1), None, None),
        (event(value=7), None, None),
        (event(stages={}, value=0.5), None, 0.5),
        (json.dumps({"model": "m", "event": "status_change", "data": {"status": "loaded"}}), None, None),
        ("[]", None, None),
        ("{", None, None),
        ("[" * 100_000, None, None),
    ],
)
def test_the_share_in_an_event(text: str, wanted: str | None, share: float | None) -> None:
    assert _share(text, wanted) == share


def target(url: str, engine: str = "llama.cpp") -> Target:
    return Target(url, engine, model="large")


async def test_a_router_tells_as_it_loads(tmp_path: Path, http: Http) -> None:
    sim = SimulatedCluster(tmp_path, speed=4)
    router = LlamaRouter(sim.world, models=["small", "large"])
    endpoint = sim.add_endpoint("r", router)
    async with sim, asyncio.timeout(30), aclosing(shares(http, target(endpoint.server.url))) as told:
        loading = asyncio.ensure_future(
            http.post(endpoint.server.url + "/models/load", b'{"model":"large"}', timeout=5)
        )
        seen = [share async for share in _until_nearly_done(told)]
        await loading
        assert seen == sorted(seen)
        assert len(seen) > 5
        assert router.loads == {"large": 1}


async def _until_nearly_done(told: AsyncGenerator[float, None]) -> AsyncGenerator[float, None]:
    async for share in told:
        yield share
        if share > 0.9:
            return


async def test_what_is_no_router_tells_nothing(tmp_path: Path, http: Http) -> None:
    sim = SimulatedCluster(tmp_path)
    endpoint = sim.add_endpoint("one", LlamaCpp(sim.world, models=["large"]))
    async with sim, asyncio.timeout(30):
        for engine in ("llama.cpp", "ollama"):
            assert [share async for share in shares(http, target(endpoint.server.url, engine))] == []


async def test_what_loads_still_or_does_not_listen_yet_says_so(http: Http) -> None:
    async with listening(Canned({}, Reply(503))) as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(ProbeFailure) as loading:
            await anext(shares(http, target(url)))
    with pytest.raises(ProbeFailure) as refused:
        await anext(shares(http, target(url)))
    assert (loading.value.cause, refused.value.cause) == (Cause.LOADING, Cause.REFUSED)
