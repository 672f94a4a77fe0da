"""What a recovery takes beyond what its real parts take: the seconds of its journal less theirs, under a second.

Theirs: each container started alone by hand until it serves, the gaps of the queue, the restart of Docker as the node's
service manager timed it, and the node from the magic packet to an SSH port that answers. Of two rounds the quicker
counts, on both sides: the rest is what the machine did besides. Where more wants to run than there are processors, all
takes longer by that much, and so may this.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.lab.deadnode import DeadNode
from tests.lab.process import wait_until
from tests.lab.test_recovery import tierdeck
from tests.procedures.test_process import ROOT

pytestmark = pytest.mark.long

LIMIT = 1.0
GAP = 0.2
ROUNDS = 2


class Woken(threading.Thread):
    """Notes when the node's SSH port first answers."""

    def __init__(self, node: DeadNode) -> None:
        super().__init__(daemon=True)
        self._node = node
        self.at = 0.0

    def run(self) -> None:
        wait_until(self._node.ssh_answers, 60, "it answers")
        self.at = time.time()


@pytest.fixture
def env(dead_node: DeadNode, tmp_path: Path) -> Iterator[dict[str, str]]:
    with TemporaryDirectory(prefix="td") as short:
        told = {"TIERDECK_CLUSTER": str(dead_node.config), "TIERDECK_STATE": str(tmp_path), "XDG_RUNTIME_DIR": short}
        yield {**os.environ, **dead_node.env, "PYTHONPATH": str(ROOT), **told}


def moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def alone(node: DeadNode, name: str) -> float:
    """Seconds until it serves, started by hand with nothing beside it."""
    began = time.monotonic()
    node.engine.docker("start", name)
    wait_until(partial(node.serves, name), 30, f"{name} serves")
    took = time.monotonic() - began
    node.engine.docker("kill", name)
    return took


def recovered(node: DeadNode, fault: str, env: dict[str, str]) -> tuple[float, float]:
    """Seconds of the whole procedure, and of its parts but for the containers."""
    getattr(node, fault)()
    woken = Woken(node)
    woken.start()
    ran = tierdeck(env, "recover", "mark", "--yes", "--json")
    assert ran.returncode == 0, ran.stderr[-3000:]
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    whole = moment(events[-1]) - moment(events[0])
    if fault == "sleep":
        woken.join()
        packet = next(moment(event) for event in events if "packet sent" in str(event["detail"]))
        return whole, max(0.0, woken.at - packet)
    return whole, node.restarting if fault == "kill_docker" else 0.0


@pytest.mark.parametrize("fault", ["kill_containers", "kill_docker", "sleep"])
def test_a_recovery_takes_hardly_longer_than_its_parts(
    fault: str, dead_node: DeadNode, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = [recovered(dead_node, fault, env) for _ in range(ROUNDS)]
    starts = 0.0
    if fault != "sleep":
        dead_node.kill_containers()
        by_hand = [sum(alone(dead_node, name) for name in dead_node.ports) for _ in range(ROUNDS)]
        starts = min(by_hand) + GAP * (len(dead_node.ports) - 1)
    whole, parts = min(rounds, key=lambda took: took[0] - took[1])
    overhead = whole - parts - starts
    load = os.getloadavg()[0]
    with capsys.disabled():
        print(
            f"\n{fault}: {whole:.2f} s, its parts {parts + starts:.2f} s, overhead {overhead:.2f} s (load {load:.1f})"
        )
    assert overhead < LIMIT * max(1.0, load / (os.cpu_count() or 1))
