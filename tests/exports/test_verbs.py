"""`tierdeck export boot-unit` and `tierdeck queue boot` on this machine: real looks, and nothing changed."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from backends import world
from backends.cluster.files import load
from backends.cluster.reading import Instant, Trouble, Workload
from backends.cluster.snapshot import ClusterSnapshot, NodeState, Prognosis
from backends.cluster.words import State
from backends.errors import ProcedureError, SshError
from backends.procedures import boot_machine
from backends.procedures.boot_machine import Machine
from backends.reach.runtime import Runtime, Shell
from tests.procedures.machines import Docker
from tui.verbs import boot, export
from tui.verbs.opening import Opened

OS = "macos" if platform.system() == "Darwin" else "linux"

TOML = f"""
version = 1
name = "home"
[[nodes]]
name = "here"
address = "127.0.0.1"
os = "{OS}"
queue = {{ order = ["a"] }}
[[nodes]]
name = "there"
address = "10.255.255.1"
"""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A cluster of this machine and one without a way to it; here a container restarts by itself."""
    path = tmp_path / "cluster.toml"
    path.write_text(TOML)
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("TIERDECK_STATE", str(state))
    monkeypatch.setenv("TIERDECK_CLUSTER", str(path))

    async def survey(*_: object) -> ClusterSnapshot:
        return snapshot(Workload("a", "docker", "running", gpu=True, restart_policy="always"))

    async def runtime(self: object, node: str, kind: str) -> Runtime:
        return cast("Runtime", Docker({"a": "always"}))

    monkeypatch.setattr(world, "survey", survey)
    monkeypatch.setattr(boot.Reached, "runtime", runtime)
    return Opened(load(path), "here", state)


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, looked at in earnest, but run by systemd and by one who may write."""
    look: Callable[..., Awaitable[Machine]] = boot_machine.look

    async def booted(shell: Shell, node: object, **more: str) -> Machine:
        found = await look(shell, node, **more)
        return replace(found, init="systemd", rights="root")

    monkeypatch.setattr(boot_machine, "look", booted)


def snapshot(*workloads: Workload, trouble: Trouble | None = None) -> ClusterSnapshot:
    at = Instant(1000.0, 10.0)
    node = NodeState("here", workloads=workloads, workloads_taken=at, workloads_trouble=trouble)
    nodes = {"here": node, "there": NodeState("there")}
    return ClusterSnapshot("home", "here", {}, (), nodes, Prognosis(State.UNKNOWN, "", {}), taken=at)


def told(**more: object) -> argparse.Namespace:
    defaults = {"what": "boot-unit", "node": "here", "program": None, "dry_run": False, "yes": False, "json": False}
    return argparse.Namespace(**{**defaults, **more})


@pytest.mark.usefixtures("systemd")
def test_a_dry_run_prints_the_plan(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    assert boot.boot(opened, told(dry_run=True, json=True, program="/opt/tierdeck")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["schema"], plan["kind"], plan["targets"]) == ("tierdeck.plan/1", "boot", ["a"])
    starter = plan["steps"][0]["arguments"]
    assert "/opt/tierdeck" in starter["text"]
    assert str(opened.loaded.path) in starter["text"]
    assert f"TIERDECK_STATE={opened.state_dir}" in starter["trial"]
    assert boot.boot(opened, told(dry_run=True, program="/opt/tierdeck")) == 0
    assert "docker update --restart=no a" in capsys.readouterr().out
    assert not list(opened.state_dir.iterdir())


@pytest.mark.usefixtures("systemd")
@pytest.mark.parametrize("more", [{}, {"json": True}])
def test_nobody_to_ask_is_a_usage_error(
    opened: Opened, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: dict[str, bool]
) -> None:
    monkeypatch.setattr("tui.verbs.carrying.can_ask", lambda: False)
    assert boot.boot(opened, told(program="/opt/tierdeck", **more)) == 2
    assert "say --yes or --dry-run" in capsys.readouterr().err


@pytest.mark.usefixtures("systemd")
def test_without_a_yes_nothing_is_started(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.verbs.carrying.can_ask", lambda: True)
    monkeypatch.setattr("tui.verbs.carrying.confirm", lambda question: False)
    assert boot.boot(opened, told(program="/opt/tierdeck")) == 1
    assert not list(opened.state_dir.iterdir())


@pytest.mark.usefixtures("systemd")
def test_the_starter_is_printed(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.run(told(program="/opt/tierdeck")) == 0
    printed = capsys.readouterr()
    assert "/opt/tierdeck" in printed.out
    assert str(opened.loaded.path) in printed.out
    assert "export boot-unit here" in printed.err
    assert export.run(told(program="/opt/tierdeck", json=True)) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["schema"], data["node"], data["os"], data["text"]) == (
        "tierdeck.boot-unit/1",
        "here",
        OS,
        printed.out,
    )
    assert data["install"]


@pytest.mark.usefixtures("opened")
def test_an_unknown_node_is_named_and_a_silent_one_told() -> None:
    with pytest.raises(ProcedureError, match='no node "nowhere"'):
        export.run(told(node="nowhere"))
    with pytest.raises(SshError, match="there is not reached: no ssh"):
        export.run(told(node="there"))


async def test_docker_is_waited_for(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boot, "LOOK_EVERY", 0.001)
    down = snapshot(trouble=Trouble("Docker does not answer."))
    answers = [down, down, snapshot()]
    asked = []

    async def survey(*_: object) -> ClusterSnapshot:
        asked.append(1)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(world, "survey", survey)
    assert (await boot.survey_patiently(opened, "here", 30)).nodes["here"].workloads_trouble is None
    assert len(asked) == 3
    assert capsys.readouterr().err.count("waiting for here: Docker does not answer.") == 1
    answers[:] = [down]
    async with asyncio.timeout(5):
        assert await boot.survey_patiently(opened, "here", 0) is down
    assert len(asked) == 4
