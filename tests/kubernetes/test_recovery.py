"""Recovery of a Kubernetes node: what its cluster says of it, stuck pods, and what only a person has done to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.faults import HOLDS, Check, Fault, Seen, diagnose
from backends.cluster.files import Loaded
from backends.cluster.inventory import Inventory
from backends.diagnosis import examine
from backends.errors import ProcedureError
from backends.procedures.commands import Procedures
from backends.procedures.draining import prepare_placing
from backends.procedures.plan import Danger, Plan
from backends.procedures.recovery import plan_recovery
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.cluster import KubernetesCluster
from backends.reach.kubernetes.runtime import KubernetesRuntime
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from backends.world import survey
from tests.kubernetes.double import Double
from tests.kubernetes.store import KINDS
from tests.kubernetes.test_queue import ended, loaded
from tests.procedures.test_process import until

__all__ = ["loaded"]

READY, NOT_READY, CORDONED, AWAY = (
    Check("kubernetes", "ok", "Ready"),
    Check("kubernetes", "bad", "NotReady", "not_ready"),
    Check("kubernetes", "bad", "Ready, and cordoned", "cordoned"),
    Check("kubernetes", "bad", "refuses connections"),
)
SSH, SILENT = Check("ssh", "ok", ""), Check("ssh", "bad", "")


@pytest.mark.parametrize(
    ("checks", "fault"),
    [
        ((READY,), Fault.NONE),
        ((READY, SILENT), Fault.SSH_DOWN),
        ((NOT_READY, SILENT), Fault.ASLEEP),
        ((NOT_READY,), Fault.ASLEEP),
        ((NOT_READY, SSH), Fault.NOT_READY),
        ((CORDONED, SSH), Fault.CORDONED),
        ((AWAY, SSH), Fault.API_DOWN),
    ],
)
def test_faults(checks: tuple[Check, ...], fault: Fault) -> None:
    assert diagnose("gpu-1", Seen({check.name: check for check in checks})).fault is fault


def test_what_a_person_did_is_not_undone_by_itself() -> None:
    assert {Fault.CORDONED, Fault.NOT_READY, Fault.API_DOWN} <= HOLDS


async def diagnosed(loaded: Loaded, folder: Path) -> Any:
    async with Reaches(loaded.inventory, None, Secrets()) as reaches:
        node = loaded.inventory.node_named["gpu-1"]
        return await examine(node, loaded.inventory, reaches, survey(loaded, None, folder / "state"))


async def test_a_node_that_went_away_is_woken_and_waited_for(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    item = double.store.get(KINDS["nodes"], "", "gpu-1")
    item["status"]["conditions"][0] |= {"status": "Unknown", "message": "Kubelet stopped posting node status."}
    double.store.touch(KINDS["nodes"], item)
    diagnosis, snapshot = await diagnosed(loaded, tmp_path)
    assert diagnosis.fault is Fault.ASLEEP
    assert any("Kubelet stopped posting" in check.words for check in diagnosis.checks)
    inventory = loaded.inventory
    with pytest.raises(ProcedureError, match="names no way to wake gpu-1"):
        plan_recovery(inventory, snapshot, diagnosis)
    node = inventory.node_named["gpu-1"].model_dump(exclude_unset=True) | {"wake": {"mac": "AA:BB:CC:DD:EE:FF"}}
    woken = Inventory.model_validate({**inventory.model_dump(exclude_unset=True), "nodes": [node]})
    plan = plan_recovery(woken, snapshot, diagnosis)
    assert [step.kind for step in plan.steps] == ["stand_down", "wake", "wait_kubernetes", "start_queue", "healthy"]


async def test_a_cordoned_node_is_named(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.store.get(KINDS["nodes"], "", "gpu-1")["spec"]["unschedulable"] = True
    diagnosis, snapshot = await diagnosed(loaded, tmp_path)
    assert diagnosis.fault is Fault.CORDONED
    with pytest.raises(ProcedureError, match="nothing new is placed there"):
        plan_recovery(loaded.inventory, snapshot, diagnosis, unattended=True)


async def test_a_stuck_pod_is_deleted_and_made_anew(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.controllers.broken["coder"] = "pull"
    double.add_deployment("coder", 1)
    runtime = KubernetesRuntime(KubernetesCluster(api, ["llm"]), "gpu-1")
    async with asyncio.timeout(5):
        while "ImagePullBackOff" not in (await runtime.state("llm/coder")).error:
            await asyncio.sleep(0.01)
    first = double.pod_of("coder")["metadata"]["name"]
    double.controllers.broken.clear()
    await runtime.start("llm/coder")
    async with asyncio.timeout(5):
        while (await runtime.state("llm/coder")).health != "healthy":
            await asyncio.sleep(0.01)
    assert double.pod_of("coder")["metadata"]["name"] != first
    second = double.pod_of("coder")["metadata"]["name"]
    await runtime.start("llm/coder")
    assert double.pod_of("coder")["metadata"]["name"] == second


async def planned(loaded: Loaded, folder: Path, what: str) -> Plan:
    snapshot = await survey(loaded, None, folder / "state")
    async with Reaches(loaded.inventory, None, Secrets()) as reaches:

        async def asked(node: str, kind: str) -> Any:
            return await reaches[node].runtime_of(kind)

        return await prepare_placing(loaded.inventory, snapshot, "gpu-1", what, asked)


async def test_a_drain_names_what_stops_and_moves_it_away(double: Double, loaded: Loaded, tmp_path: Path) -> None:
    double.add_node("gpu-2", 8)
    double.add_deployment("web", 1, 0)
    item = double.deployment("coder")
    item["spec"]["replicas"] = 1
    double.store.touch(KINDS["deployments"], item)
    double.controllers.reconcile()
    await until(lambda: len([e for e in double.controllers.started if e[0] == "ready"]) == 2, "both to run")
    plan = await planned(loaded, tmp_path, "drain")
    assert plan.danger is Danger.INTERRUPTS
    assert plan.blast.interrupts == ("llm/coder",)
    assert [name.rpartition("-")[0].rpartition("-")[0] for name in plan.blast.bystanders] == ["llm/web"]
    assert "kubectl drain gpu-1" in plan.steps[1].command
    double.budgets.add(double.pod_of("web")["metadata"]["name"])
    procedures = Procedures(tmp_path / "state", loaded.path)
    procedure = await procedures.start(plan)
    kept = "a disruption budget keeps llm/web"
    await until(lambda: any(kept in s.detail for s in procedures.state(procedure).steps), "the budget to be told")
    double.budgets.clear()
    events = await ended(procedures, procedure)
    assert events[-1]["outcome"] == "done"
    assert all(p["spec"].get("nodeName") == "gpu-2" for p in double.store.all("pods"))
    assert double.store.get(KINDS["nodes"], "", "gpu-1")["spec"]["unschedulable"] is True
    back = await planned(loaded, tmp_path, "uncordon")
    assert back.danger is Danger.CHANGES
    events = await ended(procedures, await procedures.start(back))
    assert events[-1]["outcome"] == "done"
    assert "unschedulable" not in double.store.get(KINDS["nodes"], "", "gpu-1")["spec"]


async def test_only_a_node_of_a_cluster_can_be_drained(tmp_path: Path) -> None:
    inventory = Inventory.model_validate(
        {"version": 1, "name": "x", "nodes": [{"name": "mark", "address": "10.0.0.1"}]}
    )
    with pytest.raises(ProcedureError, match="mark belongs to no Kubernetes cluster"):
        await prepare_placing(inventory, None, "mark", "drain", None)  # type: ignore[arg-type]
