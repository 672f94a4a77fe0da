"""A drill proves what each rung needs, and climbs none; the doctor remembers when."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.inventory import Inventory
from backends.doctor.drills import OLD, drills
from backends.drill import offered
from backends.proven import Proven
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama
from backends.simulator.terminal import Terminal
from tui.arguments import parser
from tui.verbs.drill import run

NOW = 1_800_000_000.0
DAY = 86400.0
LISTED = "User ops may run the following commands:\n    (root) NOPASSWD: "


@dataclass
class Sudo:
    """The node's sudo: what it allows without a password; it never runs anything."""

    rules: str = "ALL"
    ran: int = 0

    async def __call__(self, argv: list[str], terminal: Terminal) -> int:
        if "-l" not in argv:
            self.ran += 1
        elif argv[-1] == "-l":
            await terminal.write(f"{LISTED}{self.rules}\n")
        elif not self.rules:
            await terminal.complain("sudo: a password is required\n")
            return 1
        else:
            await terminal.write(f"/usr/bin/{' '.join(argv[argv.index('-l') + 1 :])}\n")
        return 0


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    monkeypatch.setenv("TIERDECK_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    sim = SimulatedCluster(tmp_path / "sim", speed=500.0)
    wake = {"mac": "AA:BB:CC:DD:EE:FF", "via": "nas"}
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], fields={"wake": wake})
    sim.add_node("nas", docker=False)
    sim.add_endpoint(
        "mark/i", LlamaCpp(sim.world, models=["m"]), node="mark", container=Spec("mark-i", gpu=True), gpu=0
    )
    sim.add_endpoint("nas/ollama", Ollama(sim.world), node="nas", service="ollama")
    async with sim:
        for node in sim.nodes.values():
            node.commands.extra["sudo"] = Sudo()
        sim.nodes["nas"].commands.extra["perl"] = sim.nodes["nas"].commands._known["true"]
        yield sim


async def drilled(sim: SimulatedCluster, node: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `tierdeck drill NODE --json`, and what it says of each rung."""

    def go() -> tuple[int, str]:
        out = io.StringIO()
        with redirect_stdout(out):
            code = run(parser().parse_args(["drill", node, "--cluster", str(sim.inventory_path), "--json"]))
        return code, out.getvalue()

    code, said = await asyncio.to_thread(go)
    return code, {rung["rung"]: rung for rung in json.loads(said)["rungs"]}


async def test_all_is_proven_and_nothing_is_done(sim: SimulatedCluster, tmp_path: Path) -> None:
    code, found = await drilled(sim, "mark")
    assert {rung: said["words"] for rung, said in found.items() if not said["proven"]} == {}
    assert (code, list(found)) == (0, ["ssh", "containers", "docker", "wake", "reboot"])
    assert found["containers"]["words"].endswith("1 of 1 containers are there")
    assert found["docker"]["words"] == "allowed: sudo -n systemctl restart docker"
    assert found["wake"]["words"].startswith("nas can send a packet to AA:BB:CC:DD:EE:FF (perl)")
    assert set(Proven(tmp_path / "state").read()["mark"]) == set(found)
    docker = sim.nodes["mark"].docker
    assert docker is not None
    assert all(route.startswith("GET ") for route in docker.requests)
    assert all(node.commands.extra["sudo"].ran == 0 for node in sim.nodes.values())  # type: ignore[attr-defined]
    code, found = await drilled(sim, "nas")
    assert (code, list(found)) == (0, ["ssh", "service", "reboot"])


async def test_what_cannot_be_climbed_says_why_and_what_to_do(sim: SimulatedCluster, tmp_path: Path) -> None:
    Proven(tmp_path / "state").note("mark", ["docker"], NOW)
    sim.nodes["mark"].commands.extra["sudo"] = Sudo("")
    del sim.nodes["nas"].commands.extra["perl"]
    del sim.nodes["mark"].docker.containers["mark-i"]  # type: ignore[union-attr]
    code, found = await drilled(sim, "mark")
    assert code == 1
    assert [rung for rung, said in found.items() if said["proven"]] == ["ssh"]
    assert found["containers"]["words"] == "there is no container mark-i"
    assert found["docker"]["words"] == "sudo: a password is required"
    assert "NOPASSWD" in found["docker"]["advice"]
    assert found["docker"]["last_proven"].startswith("2027-01-15")
    assert found["wake"]["words"] == "nas has none of python3, perl, wakeonlan, etherwake"
    assert set(Proven(tmp_path / "state").read()["mark"]) == {"docker", "ssh"}


async def test_a_node_without_ssh_is_unreachable_and_the_rest_is_proven_all_the_same(sim: SimulatedCluster) -> None:
    server = sim.nodes["mark"].ssh
    assert server is not None
    await server.refuse()
    code, found = await drilled(sim, "mark")
    assert code == 3
    assert [rung for rung, said in found.items() if said["proven"]] == ["wake"]


def inventory(**node: object) -> Inventory:
    mark = {"name": "mark", "address": "10.0.10.20", "ssh": {"user": "ops"}} | node
    one = {"name": "a", "tier": "T", "node": "mark", "engine": "ollama", "url": "http://10.0.10.20:1", "container": "a"}
    return Inventory.model_validate(
        {"version": 1, "name": "x", "nodes": [mark], "tiers": [{"name": "T"}], "endpoints": [one]}
    )


RDP = {"mac": "AA:BB:CC:DD:EE:FF", "rdp": {"user": "ops", "password": "env:X"}}


@pytest.mark.parametrize(
    ("node", "rungs"),
    [
        ({}, ("ssh", "containers", "docker", "reboot")),
        ({"wake": RDP}, ("ssh", "containers", "docker", "wake", "rdp", "reboot")),
        ({"ssh": None, "wake": {"command": "ipmi on"}}, ("wake",)),
        ({"ssh": None}, ()),
    ],
)
def test_what_cluster_toml_offers(node: dict[str, object], rungs: tuple[str, ...]) -> None:
    inv = inventory(**node)
    assert offered(inv.node_named["mark"], inv, here=False) == rungs


@pytest.mark.parametrize(
    ("node", "proven", "state", "words"),
    [
        (
            {"wake": RDP, "docker": False},
            {"rdp": 41 * DAY, "wake": DAY, "ssh": DAY},
            "warn",
            "RDP last proven 41 d ago",
        ),
        (
            {"recover": {"auto": "docker"}},
            dict.fromkeys(("ssh", "containers", "docker", "reboot"), OLD),
            "ok",
            "Docker last",
        ),
        ({"recover": {"auto": "docker"}}, {"ssh": 0.0}, "warn", "containers never proven, Docker never proven"),
        ({}, {}, "", ""),
    ],
)
def test_the_doctor_says_when_it_was_last_proven(
    node: dict[str, object], proven: dict[str, float], state: str, words: str
) -> None:
    told = {"mark": {rung: NOW - ago for rung, ago in proven.items()}} if proven else {}
    found = drills(inventory(**node), None, told, NOW)
    assert [(f.state, words in f.text) for f in found] == ([(state, True)] if state else [])


def test_what_was_remembered_may_be_anything(tmp_path: Path) -> None:
    kept = Proven(tmp_path)
    for text in ("", "[]", '{"mark": 3, "nas": {"ssh": "x", "rdp": true, "wake": 1e999}}', "[" * 100_000):
        (tmp_path / "proven.json").write_text(text)
        assert not any(kept.read().values())
    kept.note("mark", ["ssh"], NOW)
    kept.note("mark", ["rdp"], NOW + 1)
    assert kept.read()["mark"] == {"ssh": NOW, "rdp": NOW + 1}
