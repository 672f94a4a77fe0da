"""Proves, without climbing, that each rung of a node's recovery ladder could be climbed.

Nothing is restarted, woken or opened; a drill only asks for what the rungs will need when it is too late to mend it.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Node
from backends.errors import SshError, TierdeckError
from backends.procedures.context import residence
from backends.procedures.rung_words import Command, docker_command, reboot_command
from backends.reach import sudo
from backends.reach.nodes import NodeReach
from backends.reach.rdp import find_client, missing_words
from backends.reach.rdp_login import prove_login
from backends.reach.reaches import Reaches
from backends.reach.runtime import Shell
from backends.reach.services_words import powershell, unit
from backends.reach.streams import first_words
from backends.reach.wake import way_from_here
from backends.secrets import Secrets

LIMIT: Final = 30.0
"""Seconds for each proof, a vault's answer among it; they are made side by side."""

COMMAND_LIMIT: Final = 15.0
"""Seconds for one command on a node."""

WAKING: Final = ("python3", "perl", "wakeonlan", "etherwake")
"""Programs that a node of wake.via sends the packet by; one is enough."""

_WINDOWS_DOCKER: Final = (
    "if (Get-Command docker -ErrorAction SilentlyContinue) { exit 0 }; "
    'if (Test-Path "$Env:ProgramFiles\\Docker\\Docker\\Docker Desktop.exe") { exit 0 }; exit 1'
)
_MACOS_DOCKER: Final = "command -v docker >/dev/null || test -d /Applications/Docker.app"

Name = Literal["ssh", "service", "containers", "docker", "wake", "rdp", "reboot"]

TITLES: Final[dict[str, str]] = {
    "ssh": "SSH", "service": "service", "containers": "containers", "docker": "Docker", "wake": "wake", "rdp": "RDP",
    "reboot": "reboot",
}  # fmt: skip
"""What people call each rung; SSH is the way to most of them."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether a rung could be climbed now, on what evidence, and what to do where it could not."""

    rung: Name
    proven: bool
    words: str
    advice: str = ""
    seconds: float = 0.0
    unreachable: bool = False
    """The node did not answer SSH at all."""


class _Cannot(Exception):
    """A rung could not be climbed: why, and what to do."""

    def __init__(self, words: str, advice: str = "") -> None:
        super().__init__(words)
        self.words, self.advice = words, advice


def offered(node: Node, inventory: Inventory, *, here: bool) -> tuple[Name, ...]:
    """The rungs that cluster.toml offers for a node, the least invasive first."""
    own = [e for e in inventory.endpoints if e.node == node.name]
    touched = here or node.ssh is not None
    docker = touched and inventory.runs_containers(node)
    names: tuple[tuple[Name, bool], ...] = (
        ("ssh", node.ssh is not None and not here),
        ("service", touched and any(e.service for e in own)),
        ("containers", docker),
        ("docker", docker),
        ("wake", node.wake is not None and bool(node.wake.mac or node.wake.command)),
        ("rdp", node.wake is not None and node.wake.rdp is not None),
        ("reboot", node.ssh is not None and not here),
    )
    return tuple(name for name, there in names if there)


async def drill(node: Node, inventory: Inventory, reaches: Reaches, secrets: Secrets, pins: Path) -> tuple[Proof, ...]:
    """A proof for each rung that is offered, made side by side; `pins` is our folder of desktops' certificates."""
    hand = _Hand(node, inventory, reaches, secrets, pins)
    proofs: dict[Name, Callable[[], Awaitable[str]]] = {
        "ssh": hand.ssh,
        "service": hand.service,
        "containers": hand.containers,
        "docker": hand.docker,
        "wake": hand.wake,
        "rdp": hand.rdp,
        "reboot": hand.reboot,
    }
    rungs = offered(node, inventory, here=reaches[node.name].is_here)
    return tuple(await asyncio.gather(*(_proof(rung, proofs[rung]) for rung in rungs)))


async def _proof(rung: Name, prove: Callable[[], Awaitable[str]]) -> Proof:
    begun = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT):
            found = Proof(rung, True, await prove())
    except _Cannot as why:
        found = Proof(rung, False, why.words, why.advice)
    except TierdeckError as error:
        lost = rung == "ssh" and isinstance(error, SshError)
        found = Proof(rung, False, error.message, error.advice, unreachable=lost)
    except TimeoutError:
        found = Proof(rung, False, f"no answer within {LIMIT:g} s", "It hangs, or the machine is overloaded.")
    return replace(found, seconds=round(time.monotonic() - begun, 2))


@dataclass(frozen=True, slots=True)
class _Hand:
    """What the proofs of one node need; each says what it saw, or raises."""

    node: Node
    inventory: Inventory
    reaches: Reaches
    secrets: Secrets
    pins: Path

    @property
    def _reach(self) -> NodeReach:
        return self.reaches[self.node.name]

    async def ssh(self) -> str:
        """Log in and run a command."""
        await self._reach.connected()
        await self._reach.shell.run(["hostname"], timeout=COMMAND_LIMIT)
        return "logged in"

    async def service(self) -> str:
        """The services are there, and may be restarted."""
        services = self._reach.services()
        assert services is not None  # it is offered
        await self._reach.connected()
        found = await services.workloads()
        if missing := [w.name for w in found if w.state == "missing"]:
            raise _Cannot(f"there is no service {', '.join(missing)}", "Correct `service` in cluster.toml.")
        names = [w.name for w in found]
        if services.kind == "systemd" and not await self._is_root():
            for name in names:
                await self._may_run(["systemctl", "--no-ask-password", "start", "--", unit(name)], None)
        return f"{', '.join(names)}: known to {services.kind}"

    async def containers(self) -> str:
        """Docker answers, and has what cluster.toml names."""
        await self._reach.connected()
        runtime = await self._reach.runtime()
        version, known = await runtime.version(), {w.name for w in await runtime.workloads()}
        named = [residence(e) for e in self.inventory.endpoints if e.node == self.node.name and e.container]
        wanted = list(dict.fromkeys([*self.node.queue.order, *named]))
        if missing := [name for name in wanted if name not in known and ":" not in name]:
            raise _Cannot(f"there is no container {', '.join(missing)}", "Create it, or correct cluster.toml.")
        return f"Docker {version} answers, {len(wanted)} of {len(wanted)} containers are there"

    async def docker(self) -> str:
        """What restarts Docker is there, and allowed."""
        await self._reach.connected()
        command = docker_command(self.node, here=self._reach.is_here)
        if command.own:
            return await self._own(command.shown, self._reach.shell, self.node.os)
        await self._has_docker(command)
        if command.as_root:
            await self._may_run([*command.as_root], command.sudo)
        return f"allowed: {command.shown}"

    async def wake(self) -> str:
        """Whatever wakes it can be sent; whether its card listens shows only when it sleeps."""
        wake = self.node.wake
        assert wake is not None  # it is offered
        via = self.reaches[wake.via] if wake.via else self.reaches.here
        await via.connected()
        if wake.command:
            return await self._own(wake.command, via.shell, "linux")
        if via.is_here:
            if not await way_from_here(self.node.address):
                raise _Cannot(
                    f"no network of this machine holds {self.node.address}", "Name a node of its LAN: wake.via."
                )
            return f"a packet to {wake.mac} can be sent from here; whether its card listens, only its sleep tells"
        tool = "PowerShell" if via.node.os == "windows" else await _first_of(via.shell, WAKING)
        if not tool:
            raise _Cannot(f"{wake.via} has none of {', '.join(WAKING)}", f"Install one on {wake.via}.")
        return f"{wake.via} can send a packet to {wake.mac} ({tool}); whether its card listens, only its sleep tells"

    async def rdp(self) -> str:
        """FreeRDP is here, the password is had, and the desktop service takes it; no session is opened."""
        assert self.node.wake is not None
        login = self.node.wake.rdp
        assert login is not None  # it is offered
        client = find_client()
        if client is None:
            raise _Cannot(*missing_words())
        password = await self.secrets.resolve(login.password, polling=False)
        await prove_login(client, self.node.address, login, password, pins=self.pins)
        return f"{login.user} may log in by {Path(client.program).name}; no session was opened"

    async def reboot(self) -> str:
        """What reboots it is there, and allowed."""
        await self._reach.connected()
        command = reboot_command(self.node)
        if command.own:
            return await self._own(command.shown, self._reach.shell, self.node.os)
        if command.as_root:
            await self._may_run([*command.as_root], command.sudo)
        elif not await _has(self._reach.shell, command.argv[0], windows=self.node.os == "windows"):
            raise _Cannot(f"there is no {command.argv[0]}", 'Name its own command: reboot = "...".')
        return f"allowed: {command.shown}"

    async def _is_root(self) -> bool:
        done = await self._reach.shell.run(["id", "-u"], timeout=COMMAND_LIMIT)
        return done.stdout.strip() == "0"

    async def _may_run(self, argv: list[str], reference: str | None) -> None:
        password = await self.secrets.resolve(reference, polling=False) if reference else None
        if why := await sudo.refusal(self._reach.shell, argv, password):
            advice = (
                f"Correct what {reference} holds, or the rule in sudoers."
                if reference
                else 'Allow it without one (NOPASSWD in sudoers), or name the password: sudo = "keyring:...".'
            )
            raise _Cannot(why, advice)

    async def _has_docker(self, command: Command) -> None:
        """The system's own way to restart Docker leads somewhere."""
        if self.node.os == "linux":
            user = ["--user"] if "--user" in command.argv else []
            argv = ["systemctl", *user, "show", "-p", "LoadState", "--value", "docker.service"]
        else:
            argv = powershell(_WINDOWS_DOCKER) if self.node.os == "windows" else ["sh", "-c", _MACOS_DOCKER]
        done = await self._reach.shell.run(argv, timeout=COMMAND_LIMIT)
        if done.status or (self.node.os == "linux" and done.stdout.strip() != "loaded"):
            said = first_words(done.stderr) or first_words(done.stdout)
            raise _Cannot(
                f"Docker is not restarted that way there: {command.shown}" + (f" ({said})" if said else ""),
                "Name its own command: docker = { restart = ... }.",
            )

    async def _own(self, line: str, shell: Shell, os: str) -> str:
        """The program of the inventory's own command is there; where it is sudo, that it would run the rest."""
        words = _words(line)
        if words[:1] == ["sudo"]:
            await self._may_run([w for w in words[1:] if w not in ("-n", "--")], None)
            return f"allowed: {line}"
        there = await _has(shell, words[0] if words else "", windows=os == "windows")
        if not there:
            raise _Cannot(f"there is no program for: {line}", "Install it there, or correct cluster.toml.")
        return f"there: {line}"


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line.replace("\\", "\\\\"))
    except ValueError as error:
        raise _Cannot(f"no command line: {line} ({error})", "Correct its quotes in cluster.toml.") from None


async def _first_of(shell: Shell, programs: tuple[str, ...]) -> str:
    for program in programs:
        if await _has(shell, program):
            return program
    return ""


async def _has(shell: Shell, program: str, *, windows: bool = False) -> bool:
    quoted = program.replace("'", "''") if windows else shlex.quote(program)
    asked = f"Get-Command '{quoted}' -ErrorAction Stop | Out-Null" if windows else f"command -v {quoted}"
    done = await shell.run(powershell(asked) if windows else ["sh", "-c", asked], timeout=COMMAND_LIMIT)
    return done.status == 0
