"""A machine that is rebooted with another driver, over SSH: what it runs on is known, and said beside what fell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from backends import sources
from backends.cluster.files import load
from backends.cluster.words import Cause, Verdict
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.docker_shapes import VERSION
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.world.watching import watching
from tui.details import details


async def test_a_reboot_with_another_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(sources, "FACTS_INTERVAL", 0.2)
    sim = SimulatedCluster(tmp_path / "sim", speed=100.0)
    sim.extra = {"defaults": {"interval": "100ms", "timeout": "1s"}}
    mark = sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
    endpoint = sim.add_endpoint(
        "a", LlamaCpp(sim.world, models=["m"]), node="mark", container="a", gpu=0, vram_mib=4000
    )
    async with sim, watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await watch.until(lambda: (last := watch.endpoint("a").last_up) and last.facts and last.gpus, "all is known")
        facts = watch.node("mark").facts
        assert facts is not None
        assert (facts.driver, facts.docker, facts.kernel) == (mark.host.driver, VERSION, "6.8.0-85-generic")
        assert facts.booted_at == pytest.approx(mark.host.booted_at, abs=2)
        await endpoint.stop()
        mark.host.driver, mark.host.booted_at = "575.99.01", time.time() - 100
        await watch.until(lambda: watch.endpoint("a").verdict is Verdict.DOWN, "it is down")
        await watch.until(lambda: (now := watch.node("mark").facts) and now.driver == "575.99.01", "another driver")
        assert watch.endpoint("a").cause is Cause.REFUSED
        lines = details(watch.world.inventory, watch.snapshot, "endpoint:a", 120)
        told = "\n".join(line.text for line in lines)
        assert f"{facts.driver} -> 575.99.01" in told
        assert "booted" in told
        assert "running -> exited with code 0" in told
