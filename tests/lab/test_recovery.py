"""The recovery of the dead node, each of its five faults by one command and by the watch on its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import pytest

from tests.lab.cache import require
from tests.lab.deadnode import FAULTS, DeadNode, start_dead_node
from tests.lab.process import free_port, wait_until
from tests.lab.spy import Spy
from tests.procedures.test_process import ROOT

NAMED = {
    "kill_containers": "containers_down",
    "kill_docker": "docker_down",
    "log_off": "desktop_only",
    "sleep": "asleep",
    "quit_docker_desktop": "docker_down",
}
RUNGS = {
    "kill_containers": ["start_container"] * 3,
    "kill_docker": ["restart_docker", "start_queue"],
    "log_off": ["desktop_session", "start_queue"],
    "sleep": ["wake", "start_queue"],
    "quit_docker_desktop": ["desktop_session", "start_queue"],
}
LIMIT = 240.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeadNode]:
    require("docker", "sshd", "llamacpp", "rdp", "netns")
    with start_dead_node(tmp_path_factory.mktemp("dead"), recover="rdp") as made:
        yield made


@pytest.fixture
def env(node: DeadNode, tmp_path: Path) -> Iterator[dict[str, str]]:
    node.heal()
    with TemporaryDirectory(prefix="td") as short:
        yield {
            **os.environ,
            **node.env,
            "PYTHONPATH": str(ROOT),
            "TIERDECK_CLUSTER": str(node.config),
            "TIERDECK_STATE": str(tmp_path / "state"),
            "XDG_RUNTIME_DIR": short,
        }
    node.heal()


def tierdeck(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tui.cli", *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)


def done(events: list[dict[str, Any]], plan: dict[str, Any]) -> list[str]:
    """The kinds of the steps that changed something."""
    kinds = [plan["steps"][e["step"]]["kind"] for e in events if e["event"] == "step_done"]
    return [kind for kind in kinds if kind not in ("healthy", "wait_docker")]


@pytest.mark.parametrize("fault", FAULTS)
def test_one_command_brings_it_back(node: DeadNode, env: dict[str, str], fault: str) -> None:
    getattr(node, fault)()
    found = json.loads(tierdeck(env, "diagnose", "mark", "--json").stdout)
    assert found["fault"] == NAMED[fault], found
    began = time.monotonic()
    ran = tierdeck(env, "recover", "mark", "--yes", "--json")
    took = time.monotonic() - began
    assert ran.returncode == 0, (ran.stdout[-3000:], ran.stderr[-3000:])
    assert node.whole(), fault
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert events[-1]["outcome"] == "done"
    assert done(events, found["plan"]) == RUNGS[fault], took
    assert tierdeck(env, "diagnose", "mark").stdout.startswith("mark: nothing is wrong")
    assert node.desk.password not in ran.stdout + ran.stderr + _written(Path(env["TIERDECK_STATE"]))


def test_no_process_and_no_file_ever_holds_the_secret(node: DeadNode, env: dict[str, str]) -> None:
    node.log_off()
    with Spy(node.desk.password) as spy:
        ran = tierdeck(env, "recover", "mark", "--yes", "--json")
    assert ran.returncode == 0, ran.stderr[-3000:]
    for program in ("xfreerdp", "backends.procedures.process"):
        assert any(program in name for name in spy.seen), "it was there to be looked at"
    assert spy.leaks == set()
    folders = (Path(env["TIERDECK_STATE"]), Path(env["XDG_RUNTIME_DIR"]))
    assert node.desk.password not in ran.stdout + ran.stderr + "".join(map(_written, folders))


def test_a_drill_proves_what_each_rung_needs_and_climbs_none(node: DeadNode, env: dict[str, str]) -> None:
    with Spy(node.desk.password) as spy:
        ran = tierdeck(env, "drill", "mark", "--json")
    found = {rung["rung"]: rung for rung in json.loads(ran.stdout)["rungs"]}
    proven = [rung for rung, said in found.items() if said["proven"]]
    assert proven == ["ssh", "containers", "docker", "wake", "reboot"], found
    assert "NLA is not offered there" in found["rdp"]["words"], "xrdp has none: a login would open a session"
    assert ran.returncode == 1
    assert not node.desk.logged_on()
    assert any("xfreerdp" in name for name in spy.seen)
    assert spy.leaks == set()
    assert node.desk.password not in ran.stdout + ran.stderr + _written(Path(env["TIERDECK_STATE"]))
    node.sleep()
    ran = tierdeck(env, "drill", "mark")
    assert ran.returncode == 3, ran.stdout
    assert "cannot  SSH" in ran.stdout
    assert "proven  wake" in ran.stdout
    assert re.search(r"mark: drill: SSH last proven \d+ s ago, .*RDP never", tierdeck(env, "doctor").stdout)


def test_a_reboot_takes_it_out_brings_it_back_and_puts_it_back(node: DeadNode, env: dict[str, str]) -> None:
    before = node.boot_id.read_text()
    refused = tierdeck(env, "reboot", "mark", "--yes")
    assert (refused.returncode, node.boot_id.read_text()) == (2, before), "running work is not interrupted by --yes"
    planned = json.loads(tierdeck(env, "reboot", "mark", "--dry-run", "--json").stdout)
    ran = tierdeck(env, "reboot", "mark", "--yes", "--interrupt", "--json")
    assert ran.returncode == 0, (ran.stdout[-3000:], ran.stderr[-3000:])
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert done(events, planned) == ["begin_maintenance", "reboot", "start_queue", "end_maintenance"]
    assert node.boot_id.read_text() != before
    assert node.whole()
    assert tierdeck(env, "maintenance").stdout == "nothing is under maintenance\n"
    assert tierdeck(env, "status").returncode == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_the_watch_brings_it_back_on_its_own(node: DeadNode, env: dict[str, str], fault: str, tmp_path: Path) -> None:
    log = tmp_path / "watch.log"
    port = free_port()
    argv = [sys.executable, "-m", "tui.cli", "watch", "--recover", "--metrics", f"127.0.0.1:{port}"]
    with log.open("w") as out, subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.STDOUT) as watch:
        try:
            wait_until(partial(_sees_all_up, port), 30, "the watch to see it whole")
            getattr(node, fault)()
            wait_until(
                lambda: "mark is recovered" in log.read_text(), LIMIT, f"the recovery: {log.read_text()[-2000:]}"
            )
            wait_until(node.whole, 10, "it to be whole")
        finally:
            watch.send_signal(signal.SIGTERM)
            assert watch.wait(30) == 0, log.read_text()
    assert node.desk.password not in log.read_text() + _written(Path(env["TIERDECK_STATE"]))


def _sees_all_up(port: int) -> bool:
    """Whether the watch says in its metrics that every endpoint is up."""
    try:
        text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2).read().decode()
    except OSError:
        return False
    up = [line for line in text.splitlines() if line.startswith("tierdeck_endpoint_up{")]
    return bool(up) and all(line.endswith(" 1") for line in up)


def _written(folder: Path) -> str:
    """Everything that was written below a folder."""
    return "".join(p.read_bytes().decode("latin-1") for p in folder.rglob("*") if p.is_file())
