"""Recovery without a person: who is due and when, and a node that is brought back over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from backends.alerts.news import Message
from backends.cluster.files import load
from backends.cluster.fold import empty
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Instant, ProcedureState
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause, Verdict
from backends.recovering import COOL_DOWN, SETTLE, Judge
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.watch import Watch
from tests.procedures.test_process import ROOT, until

NOW = Instant(1_000_000.0, 5000.0)


def inventory() -> Inventory:
    nodes: list[dict[str, Any]] = [
        {"name": "mark", "address": "10.0.0.1", "recover": {"auto": "containers", "max_recoveries_per_hour": 2}},
        {"name": "desk", "address": "10.0.0.2", "recover": {"auto": "docker"}},
        {"name": "nas", "address": "10.0.0.3"},
    ]
    endpoints = [
        {
            "name": f"e/{n['name']}",
            "tier": "T",
            "node": n["name"],
            "engine": "ollama",
            "url": f"http://{n['address']}:1",
        }
        for n in nodes
    ]
    return Inventory.model_validate(
        {"version": 1, "name": "x", "nodes": nodes, "tiers": [{"name": "T"}], "endpoints": endpoints}
    )


def at(seconds: float) -> Instant:
    return Instant(NOW.wall + seconds, NOW.mono + seconds)


def seen(*down: str, cause: Cause = Cause.REFUSED, procedures: tuple[ProcedureState, ...] = ()) -> ClusterSnapshot:
    whole = empty(inventory(), here=None)
    verdict = Verdict.UNKNOWN if cause is Cause.MAINTENANCE else Verdict.DOWN
    states = {
        name: replace(state, verdict=verdict, cause=cause) if name.removeprefix("e/") in down else state
        for name, state in whole.endpoints.items()
    }
    return replace(whole, endpoints=states, procedures=procedures)


def recovery(age: float, state: str = "halted", node: str = "mark", kind: str = "recovery") -> ProcedureState:
    return ProcedureState("p", kind, node, "", "", state, at(SETTLE).wall - age)


@pytest.mark.parametrize(
    ("first", "later", "due", "held"),
    [
        (seen(), seen(), (), ""),
        (seen("mark"), seen("mark"), ("mark",), ""),
        (seen("mark"), seen(), (), ""),
        (seen(), seen("mark"), (), ""),
        (seen("nas"), seen("nas"), (), ""),
        (seen("mark", cause=Cause.MAINTENANCE), seen("mark", cause=Cause.MAINTENANCE), (), ""),
        (seen("mark", "desk"), seen("mark", "desk"), (), "mark went down together with desk"),
        (seen("mark", "nas"), seen("mark", "nas"), (), "mark went down together with nas"),
        (seen("mark"), seen("mark", procedures=(recovery(5, "running", kind="queue"),)), (), ""),
        (seen("mark"), seen("mark", procedures=(recovery(COOL_DOWN - 1),)), (), ""),
        (seen("mark"), seen("mark", procedures=(recovery(COOL_DOWN + 1),)), ("mark",), ""),
        (seen("mark"), seen("mark", procedures=(recovery(COOL_DOWN + 1, node="desk"),) * 2), ("mark",), ""),
        (
            seen("mark"),
            seen("mark", procedures=(recovery(400), recovery(900))),
            (),
            "mark was recovered 2 times within the hour",
        ),
        (seen("mark"), seen("mark", procedures=(recovery(400), recovery(3700))), ("mark",), ""),
    ],
)
def test_who_is_due(first: ClusterSnapshot, later: ClusterSnapshot, due: tuple[str, ...], held: str) -> None:
    judge = Judge(inventory())
    assert judge.due(first, NOW).nodes == ()
    found = judge.due(later, at(SETTLE))
    assert found.nodes == due
    assert (found.held or {}).get("mark", "").startswith(held)
    assert bool(found.held) is bool(held)


def test_one_that_fell_long_after_the_other_is_its_own_fault() -> None:
    judge = Judge(inventory())
    judge.due(seen("nas"), NOW)
    judge.due(seen("nas", "mark"), at(600))
    assert judge.due(seen("nas", "mark"), at(600 + SETTLE)).nodes == ("mark",)


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        cluster = SimulatedCluster(tmp_path / "sim")
        queue = {"order": ["mark-v"], "gap": "100ms", "ready_timeout": "20s"}
        fields = {"queue": queue, "recover": {"auto": "containers"}}
        cluster.add_node("mark", gpus=[cluster.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], fields=fields)
        engine = LlamaCpp(cluster.world, models=["/models/mark-v.gguf"])
        cluster.add_endpoint(
            "remote/mark-v", engine, node="mark", container="mark-v", gpu=0, vram_mib=3000.0, init_s=0.3, load_s=0.3,
            interval="300ms",
        )  # fmt: skip
        async with cluster:
            yield cluster


async def test_a_container_that_died_is_started_again_and_told_of(
    sim: SimulatedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.recovering.SETTLE", 1.0)
    said: list[str] = []
    told: list[Message] = []
    watch = Watch(load(sim.inventory_path), None, tmp_path / "state", lambda at, subject, word, text: said.append(text))
    monkeypatch.setattr(watch, "_post", told.append)
    task = asyncio.create_task(watch.run(recover=True))
    try:
        await until(lambda: watch.live.snapshot.endpoints["remote/mark-v"].serving, "it to serve")
        await sim.nodes["mark"].container("mark-v").kill()
        await until(lambda: any(m.title == "mark is recovered" for m in told), "the recovery")
        await until(lambda: watch.live.snapshot.endpoints["remote/mark-v"].serving, "it to serve again")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    titles = [m.title for m in told if m.title.startswith(("recovering", "mark is"))]
    assert titles == ["recovering mark", "mark is recovered"]
    assert "- start mark-v: " in next(m.body for m in told if m.title == "mark is recovered")
    assert any("containers are down: mark-v" in line for line in said)
