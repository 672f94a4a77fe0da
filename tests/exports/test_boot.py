"""Boot starters: what each service manager reads out of them is what was meant, whatever characters it has."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from backends.errors import ProcedureError
from backends.exports.boot import Starter, launchd_plist, render, same_task, scheduled_task, systemd_unit

PLAIN = Starter(
    "mark", "linux", "/home/ops/.local/bin/tierdeck", "/home/ops/.config/tierdeck/cluster.toml", "ops", "/h"
)
ODD = replace(
    PLAIN,
    node='ma"rk %h $HOME \\ ;<&>',
    program="/opt/my tools/100%h/tierdeck",
    cluster="/srv/a $b ${c} 'd' \"e\" \\f %i;/ü.toml",
    state="/var/lib/my state/$x %t",
)
NAMESPACE = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}


def settings(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)


def words(line: str) -> list[str]:
    """systemd's quoting, read as systemd.syntax(7) says: quotes, C escapes, and %% of the specifiers."""
    found: list[str] = []
    word, quoted, i = "", False, 0
    while i < len(line):
        c = line[i]
        if c == "\\":
            assert line[i + 1] in '\\"', "no other escape is used"
            word, i = word + line[i + 1], i + 1
        elif c == '"':
            quoted = not quoted
        elif c == "%":
            assert line[i + 1] == "%", "a lone % would be a specifier"
            word, i = word + "%", i + 1
        elif c == " " and not quoted:
            found, word = [*found, word], ""
        else:
            word += c
        i += 1
    assert not quoted
    return [*found, word]


def test_the_unit_runs_the_queue_once_behind_docker_and_the_network() -> None:
    told = settings(systemd_unit(PLAIN))
    assert told["Type"] == "oneshot"
    assert told["Restart"] == "no"
    assert told["User"] == "ops"
    assert told["ExecStart"] == (
        "/home/ops/.local/bin/tierdeck queue run mark --cluster /home/ops/.config/tierdeck/cluster.toml "
        "--wait 600 --yes --json"
    )
    assert told["Wants"] == "docker.service network-online.target"
    assert told["After"] == "docker.service network-online.target multi-user.target"
    assert told["WantedBy"] == "multi-user.target docker.service"
    assert told["NoNewPrivileges"] == "yes"


def test_where_services_may_need_sudo_it_is_not_forbidden() -> None:
    unit = systemd_unit(replace(PLAIN, sudo=True))
    for forbids in ("NoNewPrivileges", "RestrictSUIDSGID", "LockPersonality", "RestrictRealtime", "SystemCall"):
        assert forbids in systemd_unit(PLAIN)
        assert forbids not in unit
    assert "ProtectSystem=full" in unit


def test_systemd_reads_the_words_that_were_meant() -> None:
    told = settings(systemd_unit(ODD))
    program, *arguments = words(told["ExecStart"])
    assert [program, *(argument.replace("$$", "$") for argument in arguments)] == ODD.command()
    assert all(argument.replace("$$", "").count("$") == 0 for argument in arguments)
    assert dict(word.split("=", 1) for word in words(told["Environment"])) == ODD.environment
    assert told["Description"] == f"Start queue of {ODD.node.replace('%', '%%')} (tierdeck)"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
@pytest.mark.parametrize("sudo", [False, True])
def test_systemd_itself_takes_the_unit(tmp_path: Path, sudo: bool) -> None:
    program = tmp_path / "my tools 100%h $x" / "tierdeck"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    odd = replace(ODD, program=str(program), user="root", sudo=sudo)
    unit = tmp_path / f"{odd.name}.service"
    unit.write_text(systemd_unit(odd))

    def verify() -> subprocess.CompletedProcess[str]:
        argv = ["systemd-analyze", "verify", "--man=no", str(unit)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    refused = verify()
    assert "not executable" in refused.stderr  # so it read the path as it is
    assert str(program) in refused.stderr
    program.chmod(0o755)
    taken = verify()
    assert (taken.returncode, [line for line in taken.stderr.splitlines() if odd.name in line]) == (0, [])


@pytest.mark.parametrize("path", ["/a'b/tierdeck", '/a"b/tierdeck', "/a\\b/tierdeck"])
def test_a_program_that_systemd_would_refuse_is_refused(path: str) -> None:
    with pytest.raises(ProcedureError, match="quote or backslash"):
        render(replace(PLAIN, program=path))


def test_the_installation_needs_no_reload() -> None:
    told = render(PLAIN)
    assert told.file == "/etc/systemd/system/tierdeck-queue-mark.service"
    assert told.links == (
        "/etc/systemd/system/multi-user.target.wants/tierdeck-queue-mark.service",
        "/etc/systemd/system/docker.service.wants/tierdeck-queue-mark.service",
    )
    assert not any("systemctl" in line for line in told.install)
    assert sum("ln -s ../tierdeck-queue-mark.service" in line for line in told.install) == 2
    assert "can take the GPU away" in told.remark


@pytest.mark.parametrize("starter", [PLAIN, ODD])
def test_the_agent_says_what_was_meant(starter: Starter) -> None:
    mac = replace(starter, os="macos", home="/Users/o & p")
    told = plistlib.loads(launchd_plist(mac).encode())
    assert told["Label"] == mac.name
    assert told["ProgramArguments"] == mac.command()
    assert told["EnvironmentVariables"] == mac.environment
    assert told["RunAtLoad"] is True
    assert "KeepAlive" not in told
    assert told["StandardOutPath"] == f"/Users/o & p/Library/Logs/{mac.name}.log"
    assert render(mac).file == f"/Users/o & p/Library/LaunchAgents/{mac.name}.plist"


WINDOWS = replace(PLAIN, os="windows", user="DESK\\jörg <&>")


def test_the_task_says_what_was_meant() -> None:
    text = scheduled_task(WINDOWS)
    assert text.isascii()
    assert text.startswith('<?xml version="1.0"?>\n')  # no encoding is named: right as UTF-8 and as UTF-16
    for encoding in ("utf-8", "utf-16"):
        task = ET.fromstring(text.encode(encoding))
        trigger = task.find("t:Triggers/t:LogonTrigger", NAMESPACE)
        assert trigger is not None
        told = [(child.tag.partition("}")[2], child.text) for child in trigger]
        assert told == [("Enabled", "true"), ("UserId", "DESK\\jörg <&>"), ("Delay", "PT30S")]  # the schema's order
        assert task.findtext("t:Principals/t:Principal/t:LogonType", None, NAMESPACE) == "InteractiveToken"
        assert task.findtext("t:Settings/t:Hidden", None, NAMESPACE) == "true"
        assert task.findtext("t:Actions/t:Exec/t:Command", None, NAMESPACE) == r"%SystemRoot%\System32\wsl.exe"
        arguments = task.findtext("t:Actions/t:Exec/t:Arguments", None, NAMESPACE)
        assert arguments == "-e " + " ".join(PLAIN.command())


def test_windows_quotes_words_and_passes_the_state_on() -> None:
    starter = replace(WINDOWS, cluster="/home/o p/cluster.toml", state="/s")
    found = ET.fromstring(scheduled_task(starter)).findtext("t:Actions/t:Exec/t:Arguments", None, NAMESPACE)
    assert found is not None
    assert found.startswith("-e env TIERDECK_STATE=/s /home/ops/.local/bin/tierdeck queue run mark --cluster ")
    assert ' --cluster "/home/o p/cluster.toml" ' in found


@pytest.mark.parametrize("path", ["/a/%PATH%/c.toml", "/a/$(Arg0)/c.toml"])
def test_what_task_scheduler_would_replace_is_refused(path: str) -> None:
    with pytest.raises(ProcedureError, match="would replace"):
        render(replace(WINDOWS, cluster=path))


@pytest.mark.parametrize("os", ["linux", "macos", "windows"])
@pytest.mark.parametrize("field", ["node", "program", "cluster", "user", "home", "state"])
def test_control_characters_are_refused(os: str, field: str) -> None:
    with pytest.raises(ProcedureError, match="No starter can be written"):
        render(replace(PLAIN, os=os, **{field: "/x\nExecStartPre=/bin/evil"}))  # type: ignore[arg-type]


def test_names_are_fit_for_files_and_do_not_meet() -> None:
    assert PLAIN.name == "tierdeck-queue-mark"
    names = {replace(PLAIN, node=node).name for node in ("a b", "a/b", "a-b", "ä", "../../x", "x" * 120)}
    assert len(names) == 6
    assert all(name.isascii() and "/" not in name and len(name) < 120 for name in names)


def test_the_dry_run_is_the_same_command_as_bare_as_at_boot() -> None:
    assert PLAIN.bare() == [
        *("env", "-i", "HOME=/h", "USER=ops", "LOGNAME=ops", f"PATH={PLAIN.environment['PATH']}", PLAIN.program),
        *("queue", "run", "mark", "--cluster", PLAIN.cluster, "--wait", "0", "--yes", "--json", "--dry-run"),
    ]
    assert WINDOWS.bare()[:3] == ["wsl.exe", "-e", PLAIN.program]


def exported(text: str) -> str:
    """As Export-ScheduledTask prints a task: its own declaration, ids for names, defaults filled in."""
    told = text.replace('<?xml version="1.0"?>', '<?xml version="1.0" encoding="UTF-16"?>')
    told = told.replace("<RunLevel>", "<x/><RunLevel>").replace("  </Settings>", "<Priority>7</Priority></Settings>")
    head, _, rest = told.partition("<Principals>")
    return "\ufeff" + head + "<Principals>" + rest.replace("DESK\\j&#246;rg &lt;&amp;&gt;", "S-1-5-21-1")


def test_a_task_is_known_again() -> None:
    text = scheduled_task(WINDOWS)
    found = exported(text)
    assert "S-1-5-21-1" in found
    assert same_task(text, found)
    assert not same_task(text, found.replace("queue run mark", "queue run other"))
    assert not same_task(text, found.replace("<Enabled>true", "<Enabled>false", 1))
    assert not same_task(text, found.replace("LogonTrigger", "BootTrigger"))
    for nothing in ("", "ERROR: the system cannot find the file", "<Task"):
        assert not same_task(text, nothing)
