"""Boot plans: what they would do, what they warn of, and where they are refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot
from backends.errors import ProcedureError, RuntimeFailure, SshError
from backends.procedures import boot_machine
from backends.procedures.boot import Policy, compose_line, plan_boot, prepare_boot, restarting
from backends.procedures.plan import Danger, Plan, describe, from_json, to_json
from backends.reach.local import LocalShell
from backends.reach.runtime import Completed
from tests.procedures.machines import Docker, Machine, Outside, Windows
from tests.procedures.test_startup import box, inventory, snapshot

LINUX = boot_machine.Machine(
    "Linux", "ops", "/home/ops", "/usr/bin/tierdeck", "/etc/cluster.toml", init="systemd", rights="root"
)
BOXES = (
    box("a", restart_policy="always"),
    box("b", "running", restart_policy="on-failure"),
    box("c"),
    box("cpu", gpu=False, restart_policy="always"),
    box("spare"),
)
UNIT = "etc/systemd/system/tierdeck-queue-mark.service"


def seen(inv: Inventory, workloads: tuple[Workload, ...] = BOXES) -> ClusterSnapshot:
    return snapshot(inv, workloads)


def planned(machine: boot_machine.Machine = LINUX, **more: object) -> Plan:
    inv = inventory()
    return plan_boot(inv, seen(inv), "mark", machine, **more)  # type: ignore[arg-type]


def on(os: str, **more: object) -> Inventory:
    inv = inventory()
    return inv.model_copy(update={"nodes": (inv.nodes[0].model_copy(update={"os": os, **more}),)})


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_starter_first_then_each_gpu_container_that_starts_by_itself() -> None:
    plan = planned()
    assert [step.kind for step in plan.steps] == ["install_starter", "set_restart_policy", "set_restart_policy"]
    assert [step.command for step in plan.steps[1:]] == ["docker update --restart=no a", "docker update --restart=no b"]
    assert {step.danger for step in plan.steps} == {Danger.CHANGES}
    assert plan.targets == ("a", "b")
    assert from_json(json.loads(json.dumps(to_json(plan)))) == plan
    assert str(plan.steps[0].arguments["file"]) == f"/{UNIT}"
    assert "queue run mark" in plan.steps[0].command


def test_in_the_order_of_the_queue() -> None:
    inv = inventory(("b", "a"))
    assert plan_boot(inv, seen(inv), "mark", LINUX).targets == ("b", "a")


def test_nothing_starts_by_itself() -> None:
    inv = inventory()
    plan = plan_boot(inv, seen(inv, (box("a"), box("b"))), "mark", LINUX)
    assert [step.kind for step in plan.steps] == ["install_starter"]


def test_what_no_queue_would_start_keeps_its_policy() -> None:
    inv = inventory()
    plan = plan_boot(inv, seen(inv, (*BOXES, box("stray", restart_policy="unless-stopped"))), "mark", LINUX)
    assert plan.targets == ("a", "b")
    assert any(w.startswith("stray: in no start queue") and "queue.order" in w for w in plan.warnings)


def test_what_starts_on_demand_no_longer_starts_at_boot() -> None:
    inv = inventory()
    plan = plan_boot(inv, seen(inv, (*BOXES[:4], box("spare", restart_policy="always"))), "mark", LINUX)
    assert plan.targets == ("a", "b", "spare")
    assert any(w.startswith("spare is started on demand") for w in plan.warnings)


def test_the_compose_line_that_would_undo_it_is_named() -> None:
    labels = {
        "com.docker.compose.project": "llm",
        "com.docker.compose.service": "coder",
        "com.docker.compose.project.config_files": "/srv/llm/compose.yaml",
    }
    line = compose_line(labels)
    assert line == "/srv/llm/compose.yaml (project llm), services: coder: restart:"
    plan = planned(policies={"a": Policy("always", line), "b": Policy("on-failure:3")})
    assert [w for w in plan.warnings if "Compose" in w] == [f'Compose would undo it for a, say "no" there: {line}']
    assert plan.steps[2].arguments["old"] == "on-failure:3"
    assert compose_line({"maintainer": "x"}) == ""


def test_where_sudo_is_needed_the_plan_says_so() -> None:
    plan = planned(replace(LINUX, rights="sudo"))
    assert plan.steps[0].arguments["sudo"] is True
    assert any("sudo -n" in w for w in plan.warnings)
    assert "sudo -n" in "\n".join(describe(plan))
    assert "sudo" not in "\n".join(describe(planned()))


def test_without_rights_it_is_refused_unless_it_is_in_place() -> None:
    with pytest.raises(ProcedureError, match="ops is not root there") as refused:
        planned(replace(LINUX, rights=""))
    assert "export boot-unit mark" in refused.value.advice
    assert planned(replace(LINUX, rights=""), installed=True).targets == ("a", "b")


@pytest.mark.parametrize(
    ("os", "machine", "words"),
    [
        ("linux", replace(LINUX, system="FreeBSD"), "cluster.toml says linux, and its system says FreeBSD"),
        ("linux", boot_machine.Machine(""), "its shell is no sh"),
        ("linux", replace(LINUX, init=""), "not run by systemd"),
        ("linux", replace(LINUX, program=""), "there is no tierdeck on it"),
        ("linux", replace(LINUX, program="tierdeck: aliased to x"), "there is no tierdeck on it"),
        ("linux", replace(LINUX, cluster=""), "no cluster.toml"),
        ("linux", replace(LINUX, user=""), "does not say who"),
        ("macos", LINUX, "cluster.toml says macos"),
        ("windows", boot_machine.Machine(""), "WSL does not answer"),
        ("windows", replace(LINUX, windows_user=""), "does not say who"),
    ],
)
def test_refused_where_no_starter_fits(os: str, machine: boot_machine.Machine, words: str) -> None:
    inv = on(os)
    with pytest.raises(ProcedureError, match="No boot starter fits mark") as refused:
        plan_boot(inv, seen(inv), "mark", machine)
    assert words in refused.value.message


def test_an_unknown_node_and_an_empty_queue_are_refused() -> None:
    inv = inventory(())
    with pytest.raises(ProcedureError, match='no node "marx"'):
        plan_boot(inv, seen(inv), "marx", LINUX)
    with pytest.raises(ProcedureError, match="nothing to queue"):
        plan_boot(inv, seen(inv, (box("x", restart_policy="always"),)), "mark", LINUX)


def test_secrets_that_nobody_unlocks_at_boot_are_named() -> None:
    inv = inventory()
    locked = inv.endpoints[0].model_copy(update={"api_key": "env:KEY"})
    inv = inv.model_copy(update={"endpoints": (locked, *inv.endpoints[1:])})
    plan = plan_boot(inv, seen(inv), "mark", LINUX)
    assert any(w.startswith("remote/a: env:KEY may not be there at boot") for w in plan.warnings)


def test_who_must_log_in_on_windows_is_said() -> None:
    rdp = {"user": "DESK\\gamer", "password": "pass:x"}
    inv = Inventory.model_validate(
        {**inventory().model_dump(), "nodes": [{"name": "mark", "address": "h", "os": "windows", "wake": {"rdp": rdp}}]}
    )
    told = replace(LINUX, init="", windows_user="desk\\ops")
    plan = plan_boot(inv, seen(inv), "mark", told)
    assert any("runs when desk\\ops logs in; cluster.toml wakes mark as DESK\\gamer" in w for w in plan.warnings)
    same = plan_boot(inv, seen(inv), "mark", replace(told, windows_user="desk\\Gamer"))
    assert not any("logs in" in w for w in same.warnings)
    assert plan.steps[0].arguments["sudo"] is False


# -- looking at a machine ----------------------------------------------------------------------------------------------


async def test_this_machine_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / ".local" / "bin" / "tierdeck"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    cluster = tmp_path / ".config" / "tierdeck" / "cluster.toml"
    cluster.parent.mkdir(parents=True)
    cluster.touch()
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "TIERDECK_STATE", "TIERDECK_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    node = inventory().nodes[0]
    found = await boot_machine.look(LocalShell(), node)
    assert found.system in ("Linux", "Darwin")
    assert (found.home, found.program, found.cluster) == (str(tmp_path), str(program), str(cluster))
    assert (found.user != "", found.state) == (True, "")
    monkeypatch.setenv("XDG_STATE_HOME", "/x y")
    given = await boot_machine.look(LocalShell(), node, program="/opt/t", cluster="/c")
    assert (given.program, given.cluster, given.state) == ("/opt/t", "/c", "/x y/tierdeck")


async def test_a_windows_machine_is_asked_inside_wsl() -> None:
    facts = "system=Linux\nuser=o\nhome=/home/o\nprogram=/home/o/.local/bin/tierdeck\ncluster=/home/o/c.toml\n"
    node = on("windows").nodes[0]
    found = await boot_machine.look(Windows(facts=facts), node)
    assert (found.system, found.program, found.windows_user) == ("Linux", "/home/o/.local/bin/tierdeck", "desk\\ops")
    assert (await boot_machine.look(Windows(), node)).system == ""


async def test_prepared_with_all_there_is_to_know(tmp_path: Path) -> None:
    inv = inventory()
    docker = Docker({"a": "always", "b": "on-failure:3"}, {"a": {"com.docker.compose.service": "coder"}})
    facts = "system=Linux\nuser=ops\nhome=/h\nprogram=/usr/bin/tierdeck\ncluster=/c.toml\ninit=systemd\nrights=sudo\n"
    machine = Machine({"sh -s": Completed(0, facts, "")})
    plan = await prepare_boot(inv, seen(inv), "mark", Outside(machine, docker))
    assert plan.steps[2].arguments["old"] == "on-failure:3"
    assert any("services: coder: restart:" in w for w in plan.warnings)
    assert any("sudo -n" in w for w in plan.warnings)
    assert docker.updates == []
    with pytest.raises(RuntimeFailure, match="no restart policies"):
        await prepare_boot(inv, seen(inv), "mark", Outside(machine, object_of_kind("podman")))


def object_of_kind(kind: str) -> object:
    return type("Other", (), {"kind": kind})()


async def test_a_node_without_a_way_to_it_is_refused() -> None:
    inv = inventory()

    class Unreached(Outside):
        def shell(self, node: str) -> Machine:
            raise SshError("mark is not reached: no ssh in cluster.toml.")

    with pytest.raises(SshError, match="not reached"):
        await prepare_boot(inv, seen(inv), "mark", Unreached(Machine(), Docker()))


def test_only_what_has_policies_can_have_them_changed() -> None:
    outside = Outside(Machine(), Docker())
    assert restarting(asyncio.run(outside.runtime("mark", "docker")))
