"""Watches and nodes that come back: an API server that is killed, a node that is silent, and both at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from backends.cluster.files import Loaded
from backends.procedures.commands import Procedures
from backends.procedures.plan import Danger, Plan
from backends.procedures.recovery import after
from backends.procedures.standdown import stand_down_step
from tests.kubernetes.conftest import api_of
from tests.kubernetes.test_kept import watching
from tests.kubernetes.test_queue import ended
from tests.lab.kubernetes.kubelets import APPS, NODES, Nodes
from tests.lab.kubernetes.test_queue import loaded, replicas
from tests.procedures.test_process import until

__all__ = ["loaded"]


async def scale(nodes: Nodes, name: str, count: int) -> None:
    await nodes.patch(f"{APPS}/deployments/{name}", {"spec": {"replicas": count}})


async def test_a_watch_goes_on_after_the_api_server_was_killed(nodes: Nodes, kubeconfig: Path) -> None:
    for name in ("coder", "mistral"):
        await nodes.add_deployment(name)
    api = api_of(kubeconfig)
    async with watching(api) as kept:
        assert kept.objects == {"llm/coder": 0, "llm/mistral": 0}
        await scale(nodes, "coder", 1)
        await until(lambda: kept.objects["llm/coder"] == 1, "a change")
        await asyncio.to_thread(nodes.plane.restart_api)
        await scale(nodes, "coder", 2)
        await nodes.ask("DELETE", f"{APPS}/deployments/mistral")
        await until(lambda: kept.objects == {"llm/coder": 2}, "what happened meanwhile")
    await api.close()


async def test_a_node_that_was_away_is_not_crowded_though_the_api_went_away_too(
    nodes: Nodes, loaded: Loaded, tmp_path: Path
) -> None:
    for name, count in (("coder", 2), ("mistral", 1)):
        await scale(nodes, name, count)
    await until(lambda: len([e for e in nodes.started if e[0] == "ready"]) == 3, "all to run")
    await ready(nodes, "Unknown")
    table = loaded.inventory.node_named["gpu-1"]
    steps = (stand_down_step(table, Danger.CHANGES, may_fail=True), *after(table))
    nodes.started.clear()
    procedures = Procedures(tmp_path / "state", loaded.path)
    procedure = await procedures.start(Plan("recovery", "gpu-1", "Recover gpu-1", steps))
    await until(lambda: len([e for e in nodes.started if e[0] == "gone"]) == 3, "the node to be scaled down")
    await asyncio.to_thread(nodes.plane.restart_api)
    await ready(nodes, "True")
    events = await ended(procedures, procedure, limit=90)
    assert events[-1]["outcome"] == "done", events
    came = [each for each in nodes.started if each[0] != "gone"]
    assert came == [(what, n) for n in ("coder", "coder", "mistral", "embed") for what in ("running", "ready")]
    assert await replicas(nodes, "coder") == 2


async def ready(nodes: Nodes, word: str) -> None:
    """What the control plane says of the node: True, or Unknown while its kubelet is silent."""
    said: list[dict[str, Any]] = (await nodes.ask("GET", f"{NODES}/gpu-1"))["status"]["conditions"]
    said[0] |= {"status": word, "message": "Kubelet stopped posting node status."}
    await nodes.patch(f"{NODES}/gpu-1/status", {"status": {"conditions": said}})
