"""Machines on which boot starters are installed: a real sh in a folder, and a Windows that understands our scripts."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from backends.errors import ProcedureError, RuntimeFailure
from backends.reach.local import LocalShell
from backends.reach.runtime import Completed, Runtime, Shell


@dataclass
class Machine:
    """Runs what it is told in a real sh; a command with a word of `answers` in it is answered, or fails, instead.

    systemctl, systemd-analyze, plutil and launchctl are played; sudo is taken off and counted.
    """

    answers: dict[str, Completed | Exception] = field(default_factory=dict)
    calls: list[list[str]] = field(default_factory=list)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.calls.append(list(argv))
        told = shlex.join(argv)
        for word, answer in self.answers.items():
            if word in told:
                if isinstance(answer, Exception):
                    raise answer
                return answer
        if "systemctl" in argv:
            root = next(word.partition("=")[2] for word in argv if word.startswith("--root="))
            enabled = _enabled(Path(root), argv[-1])
            return Completed(0 if enabled else 1, "enabled\n" if enabled else "disabled\n", "")
        if {"systemd-analyze", "plutil"} & set(argv):
            return Completed(0, "OK", "")
        if "launchctl" in told:
            return Completed(1, "", "")
        return await LocalShell().run(argv[2:] if argv[:2] == ["sudo", "-n"] else argv, stdin=stdin, timeout=timeout)

    @asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncGenerator[AsyncIterator[str], None]:
        raise AssertionError("nothing is streamed")
        yield

    def called(self, word: str) -> int:
        """How many commands had that word in them."""
        return sum(word in shlex.join(call) for call in self.calls)


def _enabled(root: Path, unit: str) -> bool:
    links = list(root.glob(f"etc/systemd/system/*.wants/{unit}"))
    return bool(links) and all(link.is_file() for link in links)


@dataclass
class Windows(Machine):
    """Task Scheduler and WSL behind the commands we send; `tasks` are the tasks, `kept` the backups."""

    facts: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    trial: Completed = field(default_factory=lambda: Completed(0, "{}", ""))

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.calls.append(list(argv))
        assert all(re.fullmatch(r"[\w.=+/-]+", word) for word in argv), "survives cmd and PowerShell unquoted"
        if argv[0] == "wsl.exe":
            return Completed(0, self.facts, "") if self.facts else Completed(1, "", "'wsl.exe' is not recognized")
        if argv[0] == "whoami.exe":
            return Completed(0, "desk\\ops\r\n", "")
        assert argv[0] == "powershell.exe"
        script = base64.b64decode(argv[-1]).decode("utf-16-le")
        self.scripts.append(script)
        return self._script(script, stdin.decode())

    def _script(self, script: str, given: str) -> Completed:
        if "wsl.exe" in script:
            return self.trial
        name = re.findall(r"tierdeck-queue-[\w-]+", script)[0]
        if "/Create" in script and "ReadToEnd" in script:
            size = re.search(r"Length -ne (\d+)", script)
            assert size is not None
            if len(given) != int(size[1]):
                return Completed(1, "", "only a part of it arrived")
            self.kept.pop(name, None)
            self.kept |= {name: self.tasks[name]} if name in self.tasks else {}
            self.tasks[name] = given
        elif "/Delete" in script:
            self.tasks.pop(name)
            self.tasks |= {name: self.kept.pop(name)} if name in self.kept else {}
        else:
            return Completed(0, self.tasks.get(name, ""), "")
        return Completed(0, "SUCCESS", "")


@dataclass
class Docker:
    """Restart policies and labels of containers; `stubborn` ones keep theirs, `fault` is raised by every answer."""

    policies: dict[str, str] = field(default_factory=dict)
    told: dict[str, dict[str, str]] = field(default_factory=dict)
    stubborn: tuple[str, ...] = ()
    fault: Exception | None = None
    updates: list[tuple[str, str]] = field(default_factory=list)
    kind: str = "docker"

    async def restart_policy(self, name: str) -> str:
        if self.fault:
            raise self.fault
        if name not in self.policies:
            raise RuntimeFailure(f"There is no container {name} on mark.", status=404)
        return self.policies[name]

    async def update_restart(self, name: str, policy: str) -> None:
        await self.restart_policy(name)
        self.updates.append((name, policy))
        if name not in self.stubborn:
            self.policies[name] = policy

    async def labels(self, name: str) -> Mapping[str, str]:
        return self.told.get(name, {})


@dataclass
class Outside:
    """One node with its machine and its Docker."""

    machine: Shell
    docker: object
    lost: bool = False
    """Whether another has the node by now."""

    def shell(self, node: str) -> Shell:
        return self.machine

    async def runtime(self, node: str, kind: str) -> Runtime:
        assert kind == "docker"
        return cast("Runtime", self.docker)

    async def confirm(self) -> None:
        if self.lost:
            raise ProcedureError("mark is no longer ours.")
