"""The real commands with a node of Kubernetes in the inventory: nothing new, and each says something sensible."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.driving import tierdeck
from tests.kubernetes.double import Double
from tests.kubernetes.store import KINDS
from tests.kubernetes.test_demand import NAMES as SERVED
from tests.kubernetes.test_demand import engine, environment, inventory
from tests.procedures.test_process import until


@pytest.fixture
async def home(double: Double, tmp_path: Path, short_sockets: None) -> Path:
    """A node of eight GPUs, whose four workloads stand still, and an inventory that names them."""
    double.add_node("gpu-1", 8)
    for name in SERVED:
        double.add_deployment(name)
        double.services[f"{name}:8000"] = engine(double, name)
    told = inventory(double.kubeconfig(tmp_path)).replace("on_demand = true\n", "").replace('idle = "1s"', "")
    (tmp_path / "cluster.toml").write_text(told)
    return tmp_path


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_the_queue_starts_all_in_order(double: Double, home: Path) -> None:
    ran = await tierdeck("queue", "run", "gpu-1", "--yes", "--json", env=environment(home))
    assert ran.code == 0, ran
    assert double.controllers.started == [(what, name) for name in SERVED for what in ("running", "ready")]
    events = lines(ran.out)
    assert events[-1]["outcome"] == "done"
    assert [e["event"] for e in events].count("step_done") == len(SERVED)
    again = await tierdeck("queue", "run", "gpu-1", "--yes", "--json", env=environment(home))
    assert again.code == 0, again
    assert len(double.controllers.started) == 2 * len(SERVED)


@dataclass(frozen=True, slots=True)
class Said:
    """A command, its exit code, and words of its answer on stdout and stderr."""

    argv: tuple[str, ...]
    code: int
    words: tuple[str, ...]


SAID = [
    Said(("status",), 0, ("t/one", "UP")),
    Said(("status", "--json"), 0, ('"gpu-1"',)),
    Said(("queue", "show", "gpu-1"), 0, ("llm/one  running  OK",)),
    Said(("queue", "run", "gpu-1", "--dry-run"), 0, ("nothing to do",)),
    Said(("queue", "run", "gpu-1", "--restart", "--dry-run"), 0, ("kubectl scale --replicas=0 -n llm deployment/one",)),
    Said(("models",), 0, ("one",)),
    Said(("diagnose", "gpu-1"), 0, ("kubernetes", "Ready")),
    Said(("recover", "gpu-1", "--dry-run"), 0, ("nothing is wrong",)),
    Said(("recover", "gpu-1", "--from", "drain", "--dry-run"), 0, ("kubectl drain gpu-1", "t/one")),
    Said(("recover", "gpu-1", "--from", "drain", "--yes"), 2, ("--interrupt",)),
    Said(("fit", "one", "--node", "gpu-1"), 1, ("tierdeck:",)),
]


async def test_each_command_says_something_sensible(double: Double, home: Path) -> None:
    for name in SERVED:
        item = double.deployment(name)
        item["spec"]["replicas"] = 1
        double.store.touch(KINDS["deployments"], item)
    double.controllers.reconcile()
    await until(lambda: len([e for e in double.controllers.started if e[0] == "ready"]) == len(SERVED), "all to run")
    gate = asyncio.Semaphore(2)

    async def ask(said: Said) -> str:
        async with gate:
            ran = await tierdeck(*said.argv, env=environment(home))
        told = ran.out + ran.err
        missing = [word for word in said.words if word not in told]
        wrong = ran.code != said.code or missing or "Traceback" in told or "docker" in told.lower()
        return f"{said.argv}: {ran.code}, without {missing}:\n{told}" if wrong else ""

    wrong = [found for found in await asyncio.gather(*map(ask, SAID)) if found]
    assert not wrong, "\n".join(wrong)
