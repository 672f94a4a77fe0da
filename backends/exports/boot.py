"""Boot starters: what runs a node's start queue when its machine comes up, for systemd, launchd and Task Scheduler.

systemd's rules of quoting are those of systemd.syntax(7) and systemd.service(5), a task's elements and their order
those of Microsoft's Task Scheduler Schema (MS-TSCH 2.5), a property list is written by plistlib.
"""

from __future__ import annotations

import hashlib
import plistlib
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from backends.errors import ProcedureError

System = Literal["linux", "macos", "windows"]

WAIT: Final = 600
"""Seconds a starter waits for Docker to answer; Docker Desktop takes minutes after a login."""

UNITS: Final = "/etc/systemd/system"
"""Where the units of a machine's own administrator lie."""

WANTED_BY: Final = ("multi-user.target", "docker.service")
"""What starts the unit: every boot, and every later start of Docker, which would leave its containers stopped."""

DESKTOP_DELAY: Final = "PT30S"
"""How long after a login Windows starts the task."""

_PATHS: Final = {
    "linux": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "macos": "/usr/local/bin:/opt/homebrew/bin:/usr/bin:/bin:/usr/sbin:/sbin",
}
_TASKS = "http://schemas.microsoft.com/windows/2004/02/mit/task"


@dataclass(frozen=True, slots=True)
class Starter:
    """What is to be started on which machine, and as whom.

    `program` and `cluster` are absolute paths there (of WSL on Windows, whose `user` is the Windows user); `state` is
    TIERDECK_STATE there or "". `sudo` says that the queue has native services, which may need sudo to be started.
    """

    node: str
    os: System
    program: str
    cluster: str
    user: str
    home: str
    state: str = ""
    sudo: bool = False

    @property
    def name(self) -> str:
        """The name of its unit, job or task."""
        plain = re.sub(r"[^A-Za-z0-9_.-]", "-", self.node)[:80]
        told = plain if plain == self.node else f"{plain}-{hashlib.sha256(self.node.encode()).hexdigest()[:8]}"
        return f"tierdeck-queue-{told}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables it sets; its service manager sets HOME and USER besides, and no others that matter."""
        path = {"PATH": _PATHS[self.os]} if self.os in _PATHS else {}
        return path | ({"TIERDECK_STATE": self.state} if self.state else {})

    def command(self, *, dry_run: bool = False) -> list[str]:
        """What it runs; as a dry run it looks and plans only, and waits for nothing."""
        told = [self.program, "queue", "run", self.node, "--cluster", self.cluster]
        queue = [*told, "--wait", "0" if dry_run else str(WAIT), "--yes", "--json", *(["--dry-run"] if dry_run else [])]
        if self.os != "windows":
            return queue
        return ["wsl.exe", "-e", *(["env", f"TIERDECK_STATE={self.state}"] if self.state else []), *queue]

    def bare(self) -> list[str]:
        """The dry run with no more environment than at boot; on Windows with that of WSL, which is always the same."""
        if self.os == "windows":
            return self.command(dry_run=True)
        told = {"HOME": self.home, "USER": self.user, "LOGNAME": self.user, **self.environment}
        return ["env", "-i", *(f"{key}={value}" for key, value in told.items()), *self.command(dry_run=True)]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A starter as a file: where it belongs, what stands in it, the links that enable it, and how a person installs it.

    On Windows `file` is where it is kept; the task itself is Task Scheduler's.
    """

    file: str
    text: str
    links: tuple[str, ...]
    install: tuple[str, ...]
    remark: str


def render(starter: Starter) -> Rendered:
    """The file for the system of its node; ProcedureError where a value cannot be written into one."""
    for value in (starter.node, starter.program, starter.cluster, starter.user, starter.home, starter.state):
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise ProcedureError(f"No starter can be written with {value!r} in it.", "Rename what is called so.")
    return {"linux": _systemd, "macos": _launchd, "windows": _windows}[starter.os](starter)


def _systemd(starter: Starter) -> Rendered:
    name = f"{starter.name}.service"
    file = f"{UNITS}/{name}"
    links = tuple(f"{UNITS}/{wanted}.wants/{name}" for wanted in WANTED_BY)
    install = [
        f"tierdeck export boot-unit {shlex.quote(starter.node)} | sudo tee {file} >/dev/null",
        f"sudo mkdir -p {' '.join(link.rpartition('/')[0] for link in links)}",
        *(f"sudo ln -s ../{name} {link}" for link in links),
    ]
    remark = (
        "It works from the next boot on. Run no `systemctl daemon-reload` for it: that can take the GPU away from "
        "running containers, and a linked unit needs none."
    )
    return Rendered(file, systemd_unit(starter), links, tuple(install), remark)


def systemd_unit(starter: Starter) -> str:
    """The unit; it is ordered behind multi-user.target, so that a long queue does not hold up the boot."""
    command = starter.command()
    if set(command[0]) & set("\"'\\"):
        raise ProcedureError(
            f"systemd runs no program with a quote or backslash in its path: {command[0]}", "Move tierdeck there."
        )
    program, *rest = command
    words = " ".join([systemd_word(program), *(systemd_word(argument.replace("$", "$$")) for argument in rest)])
    environment = " ".join(systemd_word(f"{key}={value}") for key, value in starter.environment.items())
    behind = "docker.service network-online.target"
    lines = [
        "[Unit]",
        f"Description=Start queue of {starter.node.replace('%', '%%')} (tierdeck)",
        f"Wants={behind}",
        f"After={behind} multi-user.target",
        "",
        "[Service]",
        "Type=oneshot",
        f"User={starter.user.replace('%', '%%')}",
        f"Environment={environment}",
        f"ExecStart={words}",
        "Restart=no",
        "TimeoutStartSec=infinity",
        "TimeoutStopSec=30",
        "UMask=0077",
        "ProtectSystem=full",
        "ProtectControlGroups=yes",
        *([] if starter.sudo else _UNPRIVILEGED),
        "",
        "[Install]",
        f"WantedBy={' '.join(WANTED_BY)}",
    ]
    return "\n".join(lines) + "\n"


_UNPRIVILEGED: Final = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
)
"""Each of these forbids sudo."""


def systemd_word(text: str) -> str:
    """One word of a systemd setting, quoted where it must be."""
    told = text.replace("%", "%%")
    if re.fullmatch(r"[\w./:=@+,$%-]+", told, re.ASCII):
        return told
    return '"' + told.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _launchd(starter: Starter) -> Rendered:
    file = f"{starter.home}/Library/LaunchAgents/{starter.name}.plist"
    shown = f"~/Library/LaunchAgents/{starter.name}.plist"
    install = (
        f"tierdeck export boot-unit {shlex.quote(starter.node)} > {shown}",
        f"plutil -lint {shown}",
    )
    remark = f"It works from the next login of {starter.user} on: Docker Desktop runs only in one."
    return Rendered(file, launchd_plist(starter), (), install, remark)


def launchd_plist(starter: Starter) -> str:
    """The agent; it runs once at the login of its user, in whose session Docker Desktop lives."""
    log = f"{starter.home}/Library/Logs/{starter.name}.log"
    job = {
        "Label": starter.name,
        "ProgramArguments": starter.command(),
        "EnvironmentVariables": starter.environment,
        "RunAtLoad": True,
        "LimitLoadToSessionType": "Aqua",
        "ProcessType": "Background",
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o077,
    }
    return plistlib.dumps(job, sort_keys=False).decode()


def _windows(starter: Starter) -> Rendered:
    install = (
        f"tierdeck export boot-unit {shlex.quote(starter.node)} > {starter.name}.xml",
        f"schtasks.exe /Create /TN {starter.name} /XML {starter.name}.xml /F",
    )
    remark = f"It works from the next login of {starter.user} on: Docker Desktop runs only in one."
    file = f"%LOCALAPPDATA%\\tierdeck\\{starter.name}.xml"
    return Rendered(file, scheduled_task(starter), (), install, remark)


def scheduled_task(starter: Starter) -> str:
    """The task; it runs tierdeck inside WSL when the user of Docker Desktop logs in.

    It names no encoding and holds nothing but ASCII, so it is right as UTF-8, as UTF-16 and in every code page.
    """
    program, *arguments = starter.command()
    words = subprocess.list2cmdline(arguments)
    if re.search(r"%[^%]+%|\$\(", words):
        raise ProcedureError(f"Task Scheduler would replace a part of: {words}", "Rename what has %...% or $( in it.")
    root = ET.Element("Task", {"version": "1.2", "xmlns": _TASKS})
    _fill(root, "RegistrationInfo", [("Description", f"Start queue of {starter.node} (tierdeck)")])
    trigger = [("Enabled", "true"), ("UserId", starter.user), ("Delay", DESKTOP_DELAY)]
    _fill(_fill(root, "Triggers"), "LogonTrigger", trigger)
    who = [("UserId", starter.user), ("LogonType", "InteractiveToken"), ("RunLevel", "LeastPrivilege")]
    _fill(_fill(root, "Principals"), "Principal", who).set("id", "Author")
    _fill(root, "Settings", _SETTINGS)
    actions = _fill(root, "Actions")
    actions.set("Context", "Author")
    _fill(actions, "Exec", [("Command", rf"%SystemRoot%\System32\{program}"), ("Arguments", words)])
    ET.indent(root)
    text = '<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
    return text.encode("ascii", "xmlcharrefreplace").decode()


_SETTINGS: Final = (
    ("MultipleInstancesPolicy", "IgnoreNew"),
    ("DisallowStartIfOnBatteries", "false"),
    ("StopIfGoingOnBatteries", "false"),
    ("StartWhenAvailable", "true"),
    ("Enabled", "true"),
    ("Hidden", "true"),
    ("ExecutionTimeLimit", "PT0S"),
)


def _fill(parent: ET.Element, tag: str, children: Sequence[tuple[str, str]] = ()) -> ET.Element:
    """A new element in `parent`, with children that hold text."""
    element = ET.SubElement(parent, tag)
    for name, text in children:
        ET.SubElement(element, name).text = text
    return element


def same_task(told: str, found: str) -> bool:
    """Whether Task Scheduler's own `found` does what `told` says; it adds defaults, and ids in place of names."""
    try:
        ours, theirs = ET.fromstring(told), ET.fromstring(found.lstrip("\ufeff"))
    except (ET.ParseError, ValueError):
        return False
    name = {"t": _TASKS}
    enabled = all(element.text == "true" for element in theirs.iterfind(".//t:Enabled", name))
    there = theirs.find("t:Triggers/t:LogonTrigger", name) is not None
    paths = ("t:Actions/t:Exec/t:Command", "t:Actions/t:Exec/t:Arguments")
    return enabled and there and all(ours.findtext(p, None, name) == theirs.findtext(p, None, name) for p in paths)
