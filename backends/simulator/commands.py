"""The commands a console runs on a node over SSH, and nothing else: others are not found."""

from __future__ import annotations

import shlex
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from backends.simulator.containers import SimService
from backends.simulator.docker_commands import DockerCommands
from backends.simulator.gpu_commands import GpuCommands
from backends.simulator.physics import SimHost
from backends.simulator.terminal import Command, Terminal
from backends.simulator.unit_commands import UnitCommands

SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
"""Paths under which a node's Docker socket is asked for."""


class Commands:
    """What one node's shell knows; `ran` keeps every command line, `extra` adds commands for a test."""

    def __init__(
        self,
        host: SimHost,
        *,
        docker_socket: Path | None,
        services: Mapping[str, SimService],
        folder: Path,
        user: str,
        restart_docker: Callable[[], Awaitable[None]],
        docker_is_up: Callable[[], bool],
    ) -> None:
        self.host = host
        self.folder = folder
        self.user = user
        self.ran: list[str] = []
        self.extra: dict[str, Command] = {}
        self._docker_socket = docker_socket
        self._known: dict[str, Command] = {
            "true": self._true, "false": self._false, "echo": self._echo, "cat": self._cat, "grep": self._grep,
            "test": self._test, "uname": self._uname, "hostname": self._hostname, "date": self._date,
            "whoami": self._whoami, "id": self._id, "nproc": self._nproc, "dmesg": self._dmesg,
            "command": self._command, "sudo": self._sudo, **GpuCommands(host).known(),
        }  # fmt: skip
        if docker_socket is not None:
            self._known |= DockerCommands(docker_socket, docker_is_up).known()
        if host.os == "linux":
            is_up = docker_is_up if docker_socket else None
            units = UnitCommands(host, services, docker_is_up=is_up, restart_docker=restart_docker)
            self._known |= units.known()

    async def run(self, line: str, terminal: Terminal) -> int:
        """Run a command line and return its exit code."""
        self.ran.append(line)
        try:
            argv = shlex.split(line)
        except ValueError as error:
            await terminal.complain(f"sh: 1: Syntax error: {error}\n")
            return 2
        return await self._dispatch(argv, terminal)

    async def _dispatch(self, argv: list[str], terminal: Terminal) -> int:
        if argv[:1] in (["exec"], ["env"]):
            argv = argv[1:]
        while argv and "=" in argv[0] and argv[0].split("=")[0].isidentifier():
            argv = argv[1:]
        if not argv:
            return 0
        name = argv[0].rpartition("/")[2]
        if name in ("sh", "bash") and len(argv) > 2 and argv[1] in ("-c", "-lc"):
            return await self._dispatch(shlex.split(argv[2]), terminal)
        command = self.extra.get(name) or self._known.get(name)
        if command is None:
            await terminal.complain(f"sh: 1: {argv[0]}: command not found\n")
            return 127
        return await command(argv[1:], terminal)

    async def _true(self, argv: list[str], terminal: Terminal) -> int:
        return 0

    async def _false(self, argv: list[str], terminal: Terminal) -> int:
        return 1

    async def _echo(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write(" ".join(argv) + "\n")
        return 0

    async def _sudo(self, argv: list[str], terminal: Terminal) -> int:
        while argv and argv[0] in ("-n", "-S", "--"):
            argv = argv[1:]
        return await self._dispatch(argv, terminal)

    async def _command(self, argv: list[str], terminal: Terminal) -> int:
        names = [name for name in argv if not name.startswith("-")]
        for name in names:
            if name not in self._known and name not in self.extra:
                return 127
            await terminal.write(f"/usr/bin/{name}\n")
        return 0

    async def _uname(self, argv: list[str], terminal: Terminal) -> int:
        mac = self.host.os == "macos"
        parts = {
            "s": "Darwin" if mac else "Linux", "n": self.host.name,
            "r": "25.1.0" if mac else "6.8.0-85-generic", "m": "arm64" if mac else "x86_64",
        }  # fmt: skip
        asked = "".join(a.lstrip("-") for a in argv) or "s"
        letters = "snrm" if "a" in asked else [letter for letter in "snrm" if letter in asked]
        await terminal.write(" ".join(parts[letter] for letter in letters) + "\n")
        return 0

    async def _hostname(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write(self.host.name + "\n")
        return 0

    async def _whoami(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write(self.user + "\n")
        return 0

    async def _id(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write("1000\n" if "-u" in argv else f"uid=1000({self.user}) gid=1000({self.user})\n")
        return 0

    async def _nproc(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write("16\n")
        return 0

    async def _date(self, argv: list[str], terminal: Terminal) -> int:
        now = time.time() + self.host.clock_offset
        form = next((a[1:] for a in argv if a.startswith("+")), "")
        if not form:
            await terminal.write(f"{datetime.fromtimestamp(now, UTC):%a %b %d %H:%M:%S UTC %Y}\n")
            return 0
        form = form.replace("%s", str(int(now))).replace("%N", f"{int(now % 1 * 1e9):09d}")
        await terminal.write(datetime.fromtimestamp(now, UTC).strftime(form) + "\n")
        return 0

    async def _dmesg(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write("".join(f"[{86400 + n}.000000] {x}\n" for n, x in enumerate(self.host.kernel_log)))
        return 0

    async def _cat(self, argv: list[str], terminal: Terminal) -> int:
        code = 0
        for path in [a for a in argv if a == "-" or not a.startswith("-")] or ["-"]:
            if path == "-":
                await self._copy(terminal)
                continue
            text = self._file(path)
            if text is None:
                await terminal.complain(f"cat: {path}: No such file or directory\n")
                code = 1
            else:
                await terminal.write(text)
        return code

    async def _copy(self, terminal: Terminal) -> None:
        while data := await terminal.read(65536):
            await terminal.write(data)

    async def _grep(self, argv: list[str], terminal: Terminal) -> int:
        """Lines that contain a text, each led by its file's name; missing files are passed over."""
        text, *paths = [a for a in argv if not a.startswith("-")] or [""]
        found = 0
        for path in paths:
            for line in (self._file(path) or "").splitlines():
                if text in line:
                    found += 1
                    await terminal.write(f"{path}:{line}\n")
        return 0 if found else 1

    async def _test(self, argv: list[str], terminal: Terminal) -> int:
        path = argv[-1] if argv else ""
        socket = self._docker_socket
        if socket is not None and path in (*SOCKETS, str(socket)):
            return 0 if socket.exists() else 1
        return 0 if self._file(path) is not None else 1

    def _file(self, path: str) -> str | None:
        """A file of /proc or /etc, or one that lies in the node's folder."""
        parts = path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "proc" and parts[2] == "cgroup" and parts[1].isdigit():
            cgroup = self.host.cgroups.get(int(parts[1]))
            return None if cgroup is None else cgroup + "\n"
        up = time.time() - self.host.booted_at
        memory = int(self.host.memory_mib * 1024)
        files = {
            "/proc/uptime": f"{up:.2f} {up * 15:.2f}\n",
            "/proc/loadavg": "0.52 0.58 0.59 2/1021 40213\n",
            "/proc/meminfo": f"MemTotal: {memory} kB\nMemFree: {memory // 3} kB\nMemAvailable: {memory // 2} kB\n",
            "/proc/stat": f"cpu  1 0 1 1 0 0 0 0 0 0\nbtime {int(self.host.booted_at)}\n",
            "/proc/sys/kernel/random/boot_id": self.host.boot_id + "\n",
            "/proc/sys/kernel/osrelease": "6.8.0-85-generic\n",
            "/proc/sys/kernel/hostname": self.host.name + "\n",
            "/etc/hostname": self.host.name + "\n",
            "/etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n',
        }
        if path in files:
            return files[path]
        if self.host.vendor == "nvidia" and path == "/proc/driver/nvidia/version":
            return f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {self.host.driver}\n"
        inside = (self.folder / path.lstrip("/")).resolve()
        if inside.is_relative_to(self.folder.resolve()) and inside.is_file():
            return inside.read_text(errors="replace")
        return None
