"""The start queue over real sockets: SSH, a Docker API and engines of the simulator, in a detached runner."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.cluster.files import load
from backends.procedures.commands import Procedures
from backends.procedures.plan import Danger, describe
from backends.procedures.startup import plan_queue
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.world import survey
from tests.procedures.test_process import ROOT, until

NAMES = ("mark-v", "mark-iii")


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        cluster = SimulatedCluster(tmp_path / "sim")
        queue = {"order": list(NAMES), "gap": "100ms", "ready_timeout": "20s"}
        gpu = cluster.gpu(0, "NVIDIA GeForce RTX 3090", 24576)
        cluster.add_node("mark", gpus=[gpu], fields={"queue": queue})
        for name in NAMES:
            engine = LlamaCpp(cluster.world, models=[f"/models/{name}.gguf"])
            cluster.add_endpoint(
                f"remote/{name}",
                engine,
                node="mark",
                container=name,
                gpu=0,
                vram_mib=3000.0,
                init_s=0.8,
                load_s=0.8,
                state="stopped",
            )
        async with cluster:
            yield cluster


async def test_stopped_containers_start_one_after_the_other_even_if_the_runner_is_killed(
    sim: SimulatedCluster, tmp_path: Path
) -> None:
    loaded = load(sim.inventory_path)
    snapshot = await survey(loaded, None, tmp_path / "state")
    plan = plan_queue(loaded.inventory, snapshot, "mark")
    assert plan.danger is Danger.CHANGES
    assert plan.targets == NAMES
    assert "docker start mark-v" in "\n".join(describe(plan))
    procedures = Procedures(tmp_path / "state", sim.inventory_path)
    procedure = await procedures.start(plan, attended=False)
    async with asyncio.timeout(60):
        async for event in procedures.attach(procedure):
            if event.waits_at:
                break
    owner = procedures.state(procedure).owner
    os.kill(int(owner.rpartition(":")[2]), signal.SIGKILL)
    await until(lambda: procedures.state(procedure).state == "lost", "the runner to die")
    await procedures.resume(procedure, attended=False)
    async with asyncio.timeout(60):
        events = [event.to_json() async for event in procedures.attach(procedure)]
    assert events[-1]["outcome"] == "done", events[-1]
    assert [s.state for s in procedures.state(procedure).steps] == ["done", "done"]
    gates = [e["detail"]["gate"] for e in events if e["event"] == "output" and "gate" in e["detail"] and e["step"] == 1]
    assert {"ready", "vram"} <= set(gates)
    assert any("load_tensors" in line for e in events if e["event"] == "output" for line in e["detail"].get("log", []))
    host = sim.nodes["mark"].host
    assert host.cuda.deadlocks == 0
    after = await survey(loaded, None, tmp_path / "state")
    assert all(state.serving for state in after.endpoints.values())
    assert all(step.kind == "leave_alone" for step in plan_queue(loaded.inventory, after, "mark").steps)
