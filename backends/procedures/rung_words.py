"""How Docker, or the machine, is restarted on each system: the exact command, and what its refusal means. Pure."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backends.cluster.tables import Docker, Node
from backends.reach.runtime import Completed
from backends.reach.services_words import powershell
from backends.text import plain

WINDOWS_RESTART: Final = (
    "docker desktop restart --timeout 100; if ($LASTEXITCODE -eq 0) { exit 0 }; "
    "Get-Process 'Docker Desktop','com.docker.backend','com.docker.build' -ErrorAction SilentlyContinue | "
    "Stop-Process -Force; "
    "Restart-Service com.docker.service -ErrorAction SilentlyContinue; "
    'Start-Process "$Env:ProgramFiles\\Docker\\Docker\\Docker Desktop.exe" -ErrorAction Stop; exit 0'
)
"""PowerShell: Docker Desktop's own command (4.37 and later), else its processes and its service."""

MACOS_RESTART: Final = (
    "docker desktop restart --timeout 100 2>/dev/null && exit 0; "
    "osascript -e 'quit app \"Docker\"' 2>/dev/null; sleep 3; exec open -a Docker"
)
"""sh: Docker Desktop's own command, else its application closed and opened again."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command for a node: `shown` is what people read, `sudo` the reference whose secret goes to standard input.

    `as_root` is what sudo is to run, where it is sudo that runs it; `own` that cluster.toml names the command.
    """

    argv: Sequence[str]
    shown: str
    sudo: str | None = None
    as_root: Sequence[str] = ()
    own: bool = False

    def refused(self, done: Completed) -> tuple[str, str]:
        """What its failure means, and what to do."""
        said = plain(done.stderr.strip() or done.stdout.strip(), 300) or f"exit code {done.status}"
        lower = said.lower()
        if "password is required" in lower or "a terminal is required" in lower or "no tty" in lower:
            advice = (
                'sudo asks for a password: name one, [[nodes]] sudo = "keyring:..."; or allow it without (NOPASSWD).'
            )
        elif "incorrect password" in lower or "sorry, try again" in lower:
            advice = "The password for sudo is wrong: correct it where its reference points."
        elif "interactive authentication required" in lower or "access denied" in lower:
            advice = 'It needs root: log in as root, or name [[nodes]] sudo = "keyring:...".'
        elif "not found" in lower or "could not be found" in lower:
            advice = "It is not done that way there: name its own command, docker = { restart = ... } or reboot = ..."
        else:
            advice = "Look at it there: journalctl -u docker"
        return f"{self.shown} failed: {said}.", advice


def docker_command(node: Node, *, here: bool) -> Command:
    """The command that restarts Docker on `node`: the inventory's own, else the system's."""
    settings = node.docker or Docker()
    if settings.restart:
        return _own(node, settings.restart)
    if node.os == "windows":
        return Command(powershell(WINDOWS_RESTART), "docker desktop restart (else its processes and service)")
    if node.os == "macos":
        return Command(["sh", "-c", MACOS_RESTART], "docker desktop restart (else quit and open Docker)")
    if settings.socket and "/run/user/" in settings.socket:
        return Command(["systemctl", "--user", "restart", "docker"], "systemctl --user restart docker")
    root = os.geteuid() == 0 if here else node.ssh is not None and node.ssh.user == "root"
    return _as_root(node, ["systemctl", "restart", "docker"], root=root)


def reboot_command(node: Node) -> Command:
    """The command that reboots `node`, another machine: the inventory's own, else the system's."""
    if node.reboot:
        return _own(node, node.reboot)
    if node.os == "windows":
        return Command(["shutdown", "/r", "/t", "0"], "shutdown /r /t 0")
    argv = ["shutdown", "-r", "now"] if node.os == "macos" else ["systemctl", "reboot"]
    return _as_root(node, argv, root=node.ssh is not None and node.ssh.user == "root")


def _own(node: Node, command: str) -> Command:
    argv = powershell(command) if node.os == "windows" else ["sh", "-c", command]
    return Command(argv, command, own=True)


def _as_root(node: Node, argv: Sequence[str], *, root: bool) -> Command:
    if root:
        return Command(argv, shlex.join(argv))
    if node.sudo is None:
        full = ["sudo", "-n", *argv]
        return Command(full, shlex.join(full), as_root=argv)
    full = ["sudo", "-S", "-p", "", *argv]
    return Command(full, f"sudo {shlex.join(argv)}  (its password by standard input)", node.sudo, argv)
