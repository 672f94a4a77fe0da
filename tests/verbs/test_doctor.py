"""`tierdeck doctor`: each fault is named with what to do, nothing waits for a dead machine, nothing is changed."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.cluster.inventory import Inventory
from backends.doctor import here as own
from backends.doctor.finding import Finding, ok
from backends.doctor.here import Here, this_machine
from backends.doctor.secrets import references
from backends.errors import CommandError
from backends.reach.runtime import Completed
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama
from tui.arguments import parser
from tui.verbs.doctor import check, lines


@dataclass
class Loginctl:
    """A shell that has loginctl, or has not."""

    said: str | None = None

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        if self.said is None:
            raise CommandError("loginctl is not installed here, or not on the PATH.", status=127)
        assert argv[:2] == ["loginctl", "show-session"]
        return Completed(0, self.said, "")

    @asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncGenerator[AsyncIterator[str], None]:
        raise AssertionError("the doctor streams nothing")
        yield


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(
        version="0.1.0",
        encoding="utf-8",
        environment={"PATH": os.environ["PATH"]},
        hostname="laptop",
        addresses=frozenset({"10.9.9.9"}),
        user="ops",
        platform="linux",
        open_files=(1024, 4096),
        state=tmp_path / "none",
        root=tmp_path / "root",
        shell=Loginctl("KillUserProcesses=no\n"),
    )


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    """Two machines by SSH: one with GPU containers, one with a native Ollama behind a key."""
    sim = SimulatedCluster(tmp_path / "sim", speed=500.0)
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], fields={"queue": {"order": ["mark-i"]}})
    sim.add_node("desk", docker=False, password="open sesame")
    llama = LlamaCpp(sim.world, models=["m"])
    sim.add_endpoint("mark/i", llama, tier="REMOTE", node="mark", container=Spec("mark-i", gpu=True), gpu=0)
    sim.add_endpoint("desk/ollama", Ollama(sim.world), node="desk", service="ollama")
    async with sim:
        yield sim


async def examined(sim: SimulatedCluster, here: Here) -> tuple[int, dict[str, Finding]]:
    """The exit code and the findings of `tierdeck doctor --json`, in a thread with a loop of its own."""
    return await run_json(sim.inventory_path, replace(here, environment={**here.environment, **sim.secrets}))


async def run_json(path: Path, here: Here) -> tuple[int, dict[str, Finding]]:
    code, out = await asyncio.to_thread(_captured, path, here)
    said = json.loads(out)
    assert said["schema"] == "tierdeck.doctor/1"
    return code, {finding["subject"]: Finding(**finding) for finding in said["findings"]}


def _captured(path: Path, here: Here) -> tuple[int, str]:
    out = io.StringIO()
    with redirect_stdout(out):
        code = check(words(path, "--json"), here)
    return code, out.getvalue()


def words(path: Path, *more: str) -> argparse.Namespace:
    return parser().parse_args(["doctor", "--cluster", str(path), *more])


def bad_ones(findings: dict[str, Finding]) -> set[str]:
    return {subject for subject, finding in findings.items() if finding.state == "bad"}


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


# Nodes.


async def test_a_healthy_cluster(sim: SimulatedCluster, here: Here) -> None:
    code, findings = await examined(sim, here)
    assert code == 0
    assert {subject: f.state for subject, f in findings.items() if f.state != "ok"} == {}
    assert list(findings) == [
        "inventory", "this machine", "versions", "terminal", "state directory", "open files", "log-out",
        "secret env:SIM_PASSWORD_DESK",
        "mark: SSH", "mark: clock", "mark: GPUs", "mark: Docker", "desk: SSH", "desk: clock", "desk: services",
    ]  # fmt: skip
    assert findings["mark: GPUs"].text == "NVIDIA GeForce RTX 3090 (24576 MiB)"
    assert "28.5.1" in findings["mark: Docker"].text
    assert findings["desk: services"].text == "ollama running"


async def test_it_changes_nothing(sim: SimulatedCluster, here: Here, tmp_path: Path) -> None:
    before = files(tmp_path)
    await examined(sim, here)
    assert files(tmp_path) == before
    docker = sim.nodes["mark"].docker
    assert docker is not None
    assert all(route.startswith("GET ") for route in docker.requests)
    asked = {line.split()[0] for node in sim.nodes.values() for line in node.commands.ran}
    assert asked <= {"hostname", "date", "nvidia-smi", "grep", "env"}
    assert all(not endpoint.engine.requests for endpoint in sim.endpoints.values())


async def test_secrets_stand_nowhere(sim: SimulatedCluster, here: Here) -> None:
    _, findings = await examined(sim, here)
    assert "open sesame" not in str(findings)


async def test_a_clock_that_is_wrong(sim: SimulatedCluster, here: Here) -> None:
    sim.nodes["mark"].host.clock_offset = 90.0
    sim.nodes["desk"].host.clock_offset = -4.0
    code, findings = await examined(sim, here)
    assert code == 0
    assert findings["mark: clock"].state == findings["desk: clock"].state == "warn"
    assert findings["mark: clock"].text in (
        "about 90 s ahead of ours",
        "about 91 s ahead of ours",
        "about 89 s ahead of ours",
    )
    assert "behind ours" in findings["desk: clock"].text
    assert "network time" in findings["mark: clock"].advice


async def test_a_clock_that_is_half_a_second_off_is_right(sim: SimulatedCluster, here: Here) -> None:
    sim.nodes["mark"].host.clock_offset = 0.9
    _, findings = await examined(sim, here)
    assert findings["mark: clock"].state == "ok"


async def test_ssh_that_refuses_is_one_finding(sim: SimulatedCluster, here: Here) -> None:
    ssh = sim.nodes["mark"].ssh
    assert ssh is not None
    await ssh.refuse()
    code, findings = await examined(sim, here)
    assert code == 1
    assert bad_ones(findings) == {"mark: SSH"}
    assert findings["mark: SSH"].text.endswith("refuses SSH.")
    assert not findings["mark: SSH"].text.startswith("mark:")
    assert "start sshd" in findings["mark: SSH"].advice
    assert [s for s in findings if s.startswith("mark:")] == ["mark: SSH"]
    assert findings["desk: SSH"].state == "ok"


async def test_ssh_that_denies_or_has_another_key(sim: SimulatedCluster, here: Here) -> None:
    mark, desk = sim.nodes["mark"].ssh, sim.nodes["desk"].ssh
    assert mark is not None
    assert desk is not None
    await mark.change_host_key()
    desk.denying = True
    code, findings = await examined(sim, here)
    assert code == 1
    assert "CHANGED" in findings["mark: SSH"].text
    assert "ssh-keygen -R" in findings["mark: SSH"].advice
    assert "denies ops" in findings["desk: SSH"].text


async def test_a_mute_node_holds_up_no_other(
    sim: SimulatedCluster, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.doctor.nodes.SSH_LIMIT", 0.5)
    ssh = sim.nodes["mark"].ssh
    assert ssh is not None
    await ssh.hang()
    began = time.monotonic()
    code, findings = await examined(sim, here)
    assert time.monotonic() - began < 5.0
    assert code == 1
    assert "said nothing useful" in findings["mark: SSH"].text
    assert findings["desk: services"].state == "ok"


async def test_docker_that_is_down(sim: SimulatedCluster, here: Here) -> None:
    await sim.nodes["mark"].stop_docker()
    code, findings = await examined(sim, here)
    assert code == 1
    assert bad_ones(findings) == {"mark: Docker"}
    assert findings["mark: Docker"].advice
    assert findings["mark: GPUs"].state == "ok"


async def test_a_driver_that_does_not_answer(sim: SimulatedCluster, here: Here) -> None:
    sim.nodes["mark"].host.nvml_error = "Failed to initialize NVML: Driver/library version mismatch"
    code, findings = await examined(sim, here)
    assert code == 1
    assert bad_ones(findings) == {"mark: GPUs"}
    assert "Reboot the host" in findings["mark: GPUs"].advice


async def test_a_driver_that_hangs(sim: SimulatedCluster, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.doctor.nodes.LIMIT", 0.7)
    sim.nodes["mark"].host.smi_hangs = True
    code, findings = await examined(sim, here)
    assert code == 1
    assert bad_ones(findings) == {"mark: GPUs"}
    assert "no answer within" in findings["mark: GPUs"].text


async def test_containers_and_services_that_are_not_there(sim: SimulatedCluster, here: Here) -> None:
    text = sim.inventory.replace('"mark-i"', '"mark-l"').replace("systemd:ollama", "systemd:olama")
    sim.inventory_path.write_text(text)
    code, findings = await examined(sim, here)
    assert code == 1
    assert bad_ones(findings) == {"mark: container mark-l", "desk: systemd service olama"}
    assert 'Did you mean "mark-i"?' in findings["mark: container mark-l"].advice


async def test_a_restart_policy_that_defeats_the_queue(tmp_path: Path, here: Here) -> None:
    sim = SimulatedCluster(tmp_path / "sim", speed=500.0)
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
    for name, gpu in (("a", True), ("b", True), ("c", False)):
        spec = Spec(name, gpu=gpu, restart="unless-stopped")
        sim.add_endpoint(name, LlamaCpp(sim.world, models=["m"]), node="mark", container=spec)
    async with sim:
        code, findings = await examined(sim, here)
    assert code == 0
    finding = findings["mark: restart policies"]
    assert finding.state == "warn"
    assert "docker update --restart=no a b;" in finding.advice
    assert "tierdeck queue run mark --yes" in finding.advice


async def test_a_node_that_cannot_be_touched(tmp_path: Path, here: Here) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        'version = 1\nname = "x"\n[[nodes]]\nname = "a"\naddress = "10.0.0.1"\ngpus = "nvidia"\n'
        '[[nodes]]\nname = "b"\naddress = "10.0.0.2"\n'
    )
    code, findings = await run_json(path, here)
    assert code == 0
    assert findings["a: SSH"].state == "warn"
    assert 'ssh = { user = "..." }' in findings["a: SSH"].advice
    assert findings["b: SSH"].state == "ok"
    assert findings["inventory"].state == "warn"
    assert findings["this machine"].text == "laptop is none of the nodes"


async def test_the_node_we_stand_on_is_not_reached_by_ssh(tmp_path: Path, here: Here) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        'version = 1\nname = "x"\n[[nodes]]\nname = "laptop"\naddress = "10.9.9.9"\nssh = {}\n'
        f'docker = {{ socket = "{tmp_path}/no.sock" }}\n'
        '[[tiers]]\nname = "L"\n[[endpoints]]\nname = "e"\ntier = "L"\nengine = "http"\nurl = "http://h:1/v1/models"\n'
    )
    code, findings = await run_json(path, here)
    assert code == 1
    assert "laptop: SSH" not in findings
    assert findings["this machine"].text == "is the node laptop"
    assert "there is no socket" in findings["laptop: Docker"].text
    assert findings["inventory"].state == "warn"  # the remark on the route that was cut comes last


# Secrets.

SECRETS = """\
version = 1
name = "x"
[[nodes]]
name = "a"
address = "10.0.0.1"
wake = { rdp = { user = "u", password = "prompt:RDP of a" } }
[[tiers]]
name = "L"
"""
ENDPOINT = '[[endpoints]]\nname = "{0}"\ntier = "L"\nengine = "http"\nurl = "http://h:1"\napi_key = "{1}"\n'


async def test_every_reference_is_tried_but_those_that_ask(tmp_path: Path, here: Here) -> None:
    keys = {"e": "env:KEY", "f": "env:KEY", "g": "env:GONE", "h": "op:x/y", "i": "vault:a#b"}
    path = tmp_path / "cluster.toml"
    path.write_text(SECRETS + "".join(ENDPOINT.format(name, key) for name, key in keys.items()))
    code, findings = await run_json(path, replace(here, environment={"KEY": "hunter2"}))
    assert code == 1
    states = {s.removeprefix("secret "): f.state for s, f in findings.items() if s.startswith("secret")}
    assert states == {"prompt:RDP of a": "ok", "env:KEY": "ok", "env:GONE": "bad", "op:x/y": "warn", "vault:a#b": "bad"}
    assert findings["secret env:KEY"].text == "can be had (e, f)"
    assert "export GONE=" in findings["secret env:GONE"].advice
    assert findings["secret env:GONE"].text == "is empty or not set. It is for g."
    assert "hunter2" not in str(findings)


def test_who_uses_a_reference() -> None:
    text = SECRETS + ENDPOINT.format("e", "env:KEY")
    found = references(parse(text, Path("x")).inventory)
    assert [(r, use.users, use.polled) for r, use in found.items()] == [
        ("prompt:RDP of a", ["RDP to a"], []),
        ("env:KEY", ["e"], ["e"]),
    ]


# This machine.


def test_the_state_directory(here: Here, tmp_path: Path) -> None:
    def state(path: Path) -> str:
        return own.state_directory(replace(here, state=path)).state

    private, shared, file = tmp_path / "private", tmp_path / "shared", tmp_path / "file"
    private.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o755)
    file.write_text("")
    assert [state(p) for p in (private, shared, file, tmp_path / "none")] == ["ok", "warn", "bad", "ok"]
    assert state(file / "x") == "bad"
    assert own.state_directory(replace(here, state=shared)).advice == f"chmod 700 {shared}"


def test_the_terminal(here: Here) -> None:
    for encoding, state in (("utf-8", "ok"), ("UTF8", "ok"), ("ANSI_X3.4-1968", "warn"), ("", "warn")):
        assert own.terminal(replace(here, encoding=encoding)).state == state


def test_what_a_desktop_session_needs(here: Here, tmp_path: Path) -> None:
    inventory = parse(SECRETS, Path("cluster.toml")).inventory
    bare = replace(here, environment={"PATH": str(tmp_path), "DISPLAY": ""})
    (missing,) = own.desktops(bare, inventory)
    assert (missing.state, missing.text) == (
        "warn",
        "a cannot be woken by one: no FreeRDP client is installed here, and a desktop session cannot be opened",
    )
    assert "freerdp" in missing.advice
    for name, state in (("xfreerdp", "warn"), ("Xvfb", "ok")):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
        (finding,) = own.desktops(bare, inventory)
        assert finding.state == state
    nobody = Inventory.model_validate({"version": 1, "name": "t"})
    assert own.desktops(bare, nobody) == ()


def test_open_files(here: Here) -> None:
    few = Inventory(version=1, name="x")
    many = parse(
        SECRETS + "".join(ENDPOINT.format(f"e{n}", "env:K") for n in range(500)), Path("x")
    ).inventory  # fmt: skip
    assert own.open_files(here, few).state == "ok"
    assert own.open_files(here, many).state == "warn"
    assert own.open_files(replace(here, open_files=(256, 512)), many).state == "bad"
    assert own.open_files(replace(here, open_files=(-1, -1)), many).state == "ok"
    assert "ulimit -n 1076" in own.open_files(here, many).advice


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("KillUserProcesses=no\nKillExcludeUsers=root\n", "ok"),
        ("KillUserProcesses=yes\nKillOnlyUsers=\nKillExcludeUsers=root\n", "warn"),
        ("KillUserProcesses=yes\nKillExcludeUsers=root ops\n", "ok"),
        ("KillUserProcesses=yes\nKillOnlyUsers=guest\nKillExcludeUsers=root\n", "ok"),
        ("KillUserProcesses=yes\nKillOnlyUsers=ops\n", "warn"),
    ],
)
async def test_logind_itself_is_asked(here: Here, said: str, state: str) -> None:
    assert (await own.logind(replace(here, shell=Loginctl(said)))).state == state


async def test_logind_conf_is_read_where_logind_cannot_be_asked(here: Here) -> None:
    here = replace(here, shell=Loginctl(None))

    async def state() -> str:
        return (await own.logind(here)).state

    def write(path: str, line: str) -> None:
        file = here.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"[Login]\n# KillUserProcesses=yes\n{line}\n")

    assert await state() == "ok"
    write("etc/systemd/logind.conf", "KillUserProcesses=yes")
    assert await state() == "warn"
    write("usr/lib/systemd/logind.conf.d/50-x.conf", "KillUserProcesses=no")
    assert await state() == "ok"
    write("etc/systemd/logind.conf.d/60-y.conf", "KillUserProcesses = yes")
    assert await state() == "warn"
    write("etc/systemd/logind.conf.d/50-x.conf", "KillOnlyUsers=guest")
    assert await state() == "ok"
    assert (await own.logind(replace(here, platform="darwin"))).state == "ok"


def test_looking_at_the_real_machine_makes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "not" / "made"
    machine = this_machine("0.1.0", "utf-8", {"TIERDECK_STATE": str(state), "SECRET": "x"})
    assert machine.state == state
    assert own.state_directory(machine).state == "ok"
    assert not state.parent.exists()
    assert own.versions(machine).text.startswith("tierdeck 0.1.0, Python 3.")


# The inventory, and what is printed.


@pytest.mark.parametrize(
    ("text", "part"),
    [(None, "no such file"), ('version = 1\nname = "x"\nnodez = 3\n', 'unknown key "nodez"'), ("\0", "not valid TOML")],
)
def test_a_broken_inventory_is_a_finding(
    text: str | None, part: str, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.toml"
    if text is not None:
        path.write_text(text)
    assert check(words(path), here) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"BAD   inventory: {path}")
    assert part in out
    assert "\nok    terminal: speaks utf-8\n" in out
    assert err == ""


def test_a_line_for_each_finding_and_advice_beneath() -> None:
    assert lines(ok("mark: SSH", "fine")) == ["ok    mark: SSH: fine"]
    assert lines(Finding("a", "warn", "b", "c")) == ["warn  a: b", "      c"]


async def test_what_nodes_say_moves_no_cursor(sim: SimulatedCluster, here: Here) -> None:
    sim.nodes["mark"].host.nvml_error = "ERR! \x1b[2J\x1b]0;gone\x07 [bold]x"
    _, findings = await examined(sim, here)
    text = json.dumps([f.text + f.advice for f in findings.values()], ensure_ascii=False)
    assert findings["mark: GPUs"].state == "bad"
    assert text.isprintable()
