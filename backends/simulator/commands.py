"""The commands a console runs on a node over SSH, and nothing else: others are not found."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from backends.simulator import docker_shapes, smi
from backends.simulator.containers import SimService
from backends.simulator.physics import SimHost
from backends.simulator.world import rfc3339


class Terminal(Protocol):
    """Standard input and output of one command."""

    async def read(self, size: int) -> bytes:
        """Some input, b"" at its end."""
        ...

    async def write(self, data: str | bytes) -> None:
        """Some output."""
        ...

    async def complain(self, text: str) -> None:
        """Some standard error."""
        ...


Command = Callable[[list[str], Terminal], Awaitable[int]]

_WITH_VALUE = frozenset({"-n", "-u", "-o", "-p", "-l", "-i", "-c", "-lms", "--context", "--format", "-f", "-H"})


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
        self._docker_is_up = docker_is_up
        self._restart_docker = restart_docker
        self._services = services
        self._known: dict[str, Command] = {
            "true": self._true, "false": self._false, "echo": self._echo, "cat": self._cat,
            "uname": self._uname, "hostname": self._hostname, "date": self._date, "whoami": self._whoami,
            "id": self._id, "nproc": self._nproc, "dmesg": self._dmesg, "command": self._command,
            "systemctl": self._systemctl, "journalctl": self._journalctl, "sudo": self._sudo,
        }  # fmt: skip
        if docker_socket is not None:
            self._known["docker"] = self._docker
        if host.vendor == "nvidia":
            self._known["nvidia-smi"] = self._nvidia_smi
        if host.vendor == "amd":
            self._known["rocm-smi"] = self._rocm_smi
        if host.os == "macos":
            self._known |= {"sysctl": self._sysctl, "ioreg": self._ioreg}
            del self._known["systemctl"], self._known["journalctl"]

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
        for path in (a for a in argv if not a.startswith("-")):
            text = self._file(path)
            if text is None:
                await terminal.complain(f"cat: {path}: No such file or directory\n")
                code = 1
            else:
                await terminal.write(text)
        return code

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

    async def _systemctl(self, argv: list[str], terminal: Terminal) -> int:
        words = _words(argv)
        verb, names = (words[0], words[1:]) if words else ("", [])
        if verb == "daemon-reload":
            return 0
        if verb == "list-units":
            for service in self._services.values():
                await terminal.write(f"{service.name}.service loaded {service.state} running {service.name}\n")
            return 0
        for name in (n.removesuffix(".service") for n in names):
            code = await self._unit(verb, name, argv, terminal)
            if code:
                return code
        return 0

    async def _unit(self, verb: str, name: str, argv: Sequence[str], terminal: Terminal) -> int:
        service = self._services.get(name)
        docker = name in ("docker", "docker.socket") and self._docker_socket is not None
        if docker and verb in ("restart", "start"):
            await self._restart_docker()
            return 0
        if service is None and not docker:
            if verb == "is-active":
                await terminal.write("inactive\n")
                return 4
            if verb == "show":
                await self._properties(argv, {"LoadState": "not-found", "ActiveState": "inactive"}, terminal)
                return 0
            await terminal.complain(f"Failed to {verb} {name}.service: Unit {name}.service not found.\n")
            return 5
        state = service.state if service else ("active" if self._docker_is_up() else "failed")
        match verb:
            case "is-active":
                await terminal.write(state + "\n")
                return 0 if state == "active" else 3
            case "show":
                await self._properties(argv, _unit_properties(name, state, service), terminal)
            case "restart" if service:
                await service.restart()
            case "start" if service:
                service.start()
            case "stop" if service:
                await service.stop()
            case _:
                await terminal.complain(f"Unknown command verb '{verb}'.\n")
                return 1
        return 0

    async def _properties(self, argv: Sequence[str], values: Mapping[str, str], terminal: Terminal) -> None:
        asked = [a.removeprefix("--property=") for a in argv if a.startswith("--property=")]
        asked += [argv[i + 1] for i, a in enumerate(argv[:-1]) if a in ("-p", "--property")]
        names = [name for chunk in asked for name in chunk.split(",")] or list(values)
        bare = "--value" in argv
        for name in names:
            value = values.get(name, "")
            await terminal.write(f"{value}\n" if bare else f"{name}={value}\n")

    async def _journalctl(self, argv: list[str], terminal: Terminal) -> int:
        options = _options(argv)
        if "-k" in argv or "--dmesg" in argv:
            return await self._dmesg([], terminal)
        name = (options.get("-u") or options.get("--unit") or "").removesuffix(".service")
        service = self._services.get(name)
        if service is None:
            await terminal.write("-- No entries --\n")
            return 0
        form = options.get("-o") or options.get("--output") or "short"
        tail = options.get("-n") or options.get("--lines") or "all"
        at = max(0, len(service.log.lines) - int(tail)) if tail.isdigit() else 0
        while True:
            for when, line in service.log.lines[at:]:
                await terminal.write(_journal_line(form, self.host.name, service, when, line))
            at = len(service.log.lines)
            if "-f" not in argv and "--follow" not in argv:
                return 0
            await service.log.changed()

    async def _docker(self, argv: list[str], terminal: Terminal) -> int:
        words = _words(argv)
        if words[:2] == ["system", "dial-stdio"]:
            return await self._dial_stdio(terminal)
        if words[:1] == ["version"]:
            if not self._docker_is_up():
                await terminal.complain(
                    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
                    "Is the docker daemon running?\n"
                )
                return 1
            both = {"Client": {"Version": docker_shapes.VERSION}, "Server": docker_shapes.version()}
            form = _options(argv).get("--format", "")
            await terminal.write(docker_shapes.VERSION + "\n" if ".Server.Version" in form else json.dumps(both) + "\n")
            return 0
        await terminal.complain(f"docker: '{' '.join(words)}' is not a docker command.\nSee 'docker --help'\n")
        return 1

    async def _dial_stdio(self, terminal: Terminal) -> int:
        """Bridge standard input and output to the engine's socket."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._docker_socket))
        except OSError as error:
            await terminal.complain(f"unable to dial: dial unix /var/run/docker.sock: {error.strerror}\n")
            return 1

        async def up() -> None:
            while data := await terminal.read(65536):
                writer.write(data)
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.write_eof()

        sending = asyncio.ensure_future(up())
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    await terminal.write(data)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()
        return 0

    async def _nvidia_smi(self, argv: list[str], terminal: Terminal) -> int:
        if self.host.smi_hangs:
            await asyncio.Event().wait()
        if trouble := smi.nvidia_trouble(self.host):
            await terminal.write(trouble[1])
            return trouble[0]
        if "-L" in argv:
            await terminal.write(smi.nvidia_list(self.host))
            return 0
        options = _options(argv)
        apps = "--query-compute-apps" in options
        asked = options.get("--query-compute-apps") or options.get("--query-gpu") or ""
        fields = [field.strip() for field in asked.split(",") if field.strip()]
        if not fields:
            await terminal.write(f"NVIDIA-SMI {self.host.driver}\n")
            return 0
        if bad := smi.unknown_field(fields, apps=apps):
            await terminal.write(f'Field "{bad}" is not a valid field to query.\n\n')
            return 2
        return await self._nvidia_rows(fields, apps, options, terminal)

    async def _nvidia_rows(self, fields: list[str], apps: bool, options: dict[str, str], terminal: Terminal) -> int:
        form = options.get("--format", "csv")
        units = "nounits" not in form
        every = float(options.get("-l") or options.get("--loop") or 0) + float(options.get("-lms") or 0) / 1000
        if "noheader" not in form:
            await terminal.write(smi.header(fields, apps=apps, units=units))
        query = smi.query_apps if apps else smi.query_gpus
        while True:
            if trouble := smi.nvidia_trouble(self.host):
                await terminal.write(trouble[1])
                return trouble[0]
            await terminal.write(query(self.host, fields, units=units))
            if not every:
                return 0
            await self.host.world.sleep(every)
            if self.host.smi_hangs:
                await asyncio.Event().wait()

    async def _rocm_smi(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write(smi.rocm(self.host))
        return 0

    async def _sysctl(self, argv: list[str], terminal: Terminal) -> int:
        code = 0
        for name in (a for a in argv if not a.startswith("-")):
            value = smi.sysctl(self.host, name)
            if value is None:
                await terminal.complain(f"sysctl: unknown oid '{name}'\n")
                code = 1
            else:
                await terminal.write(f"{value}\n" if "-n" in argv else f"{name}: {value}\n")
        return code

    async def _ioreg(self, argv: list[str], terminal: Terminal) -> int:
        await terminal.write(smi.ioreg(self.host))
        return 0


def _unit_properties(name: str, state: str, service: SimService | None) -> dict[str, str]:
    active = state == "active"
    since = service.since if service else 0.0
    return {
        "Id": f"{name}.service", "LoadState": "loaded", "ActiveState": state,
        "SubState": "running" if active else "dead" if state == "inactive" else state,
        "MainPID": str(service.program.pid if service and active else 0),
        "NRestarts": str(service.restarts if service else 0), "Result": "success" if active else "exit-code",
        "ActiveEnterTimestamp": f"{datetime.fromtimestamp(since, UTC):%a %Y-%m-%d %H:%M:%S UTC}",
        "ExecMainStartTimestamp": f"{datetime.fromtimestamp(since, UTC):%a %Y-%m-%d %H:%M:%S UTC}",
        "ExecMainStatus": "0" if active or state == "inactive" else "1", "UnitFileState": "enabled",
        "Description": name,
    }  # fmt: skip


def _journal_line(form: str, host: str, service: SimService, when: float, line: str) -> str:
    if form == "cat":
        return line + "\n"
    if form == "json":
        micros = str(int(when * 1e6))
        return json.dumps({"__REALTIME_TIMESTAMP": micros, "MESSAGE": line, "_PID": "1"}) + "\n"
    stamp = {
        "short-iso": rfc3339(when)[:19] + "+0000",
        "short-unix": f"{when:.6f}",
        "short-iso-precise": rfc3339(when)[:26] + "+0000",
    }.get(form, f"{datetime.fromtimestamp(when, UTC):%b %d %H:%M:%S}")
    return f"{stamp} {host} {service.name}[1]: {line}\n"


def _words(argv: Sequence[str]) -> list[str]:
    """The arguments that are neither options nor their values."""
    words, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument in _WITH_VALUE:
            skip = True
        elif not argument.startswith("-"):
            words.append(argument)
    return words


def _options(argv: Sequence[str]) -> dict[str, str]:
    """Options with their values, be they written --a=b or -a b."""
    options: dict[str, str] = {}
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if not name.startswith("-"):
            continue
        following = argv[index + 1] if index + 1 < len(argv) else ""
        options[name] = value if equals else following
    return options
