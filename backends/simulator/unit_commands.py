"""systemctl and journalctl of a node: its services, and its Docker Engine as one of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

from backends.simulator.containers import SimService
from backends.simulator.physics import SimHost
from backends.simulator.terminal import Command, Terminal, options, words
from backends.simulator.world import rfc3339


class UnitCommands:
    """Acts on `services`, and on docker where there is one."""

    def __init__(
        self,
        host: SimHost,
        services: Mapping[str, SimService],
        *,
        docker_is_up: Callable[[], bool] | None,
        restart_docker: Callable[[], Awaitable[None]],
    ) -> None:
        self.host = host
        self._services = services
        self._docker_is_up = docker_is_up
        self._restart_docker = restart_docker

    def known(self) -> dict[str, Command]:
        """The commands by name."""
        return {"systemctl": self._systemctl, "journalctl": self._journalctl}

    async def _systemctl(self, argv: list[str], terminal: Terminal) -> int:
        given = words(argv)
        verb, names = (given[0], given[1:]) if given else ("", [])
        if "--version" in argv:
            await terminal.write("systemd 255 (255.4-1ubuntu8.11)\n")
            return 0
        if verb == "daemon-reload":
            return 0
        if verb == "list-units":
            for service in self._services.values():
                await terminal.write(f"{service.name}.service loaded {service.state} running {service.name}\n")
            return 0
        for place, name in enumerate(n.removesuffix(".service") for n in names):
            if place and verb == "show":
                await terminal.write("\n")
            code = await self._unit(verb, name, argv, terminal)
            if code:
                return code
        return 0

    async def _unit(self, verb: str, name: str, argv: Sequence[str], terminal: Terminal) -> int:
        service = self._services.get(name)
        docker = name in ("docker", "docker.socket") and self._docker_is_up is not None
        if docker and verb in ("restart", "start"):
            await self._restart_docker()
            return 0
        if service is None and not docker:
            if verb == "is-active":
                await terminal.write("inactive\n")
                return 4
            if verb == "show":
                await self._properties(
                    argv, {"Id": f"{name}.service", "LoadState": "not-found", "ActiveState": "inactive"}, terminal
                )
                return 0
            await terminal.complain(f"Failed to {verb} {name}.service: Unit {name}.service not found.\n")
            return 5
        state = service.state if service else ("active" if self._docker_is_up and self._docker_is_up() else "failed")
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
        given = options(argv)
        if "-k" in argv or "--dmesg" in argv:
            await terminal.write("".join(f"kernel: {line}\n" for line in self.host.kernel_log))
            return 0
        name = (given.get("-u") or given.get("--unit") or "").removesuffix(".service")
        service = self._services.get(name)
        if service is None:
            await terminal.write("-- No entries --\n")
            return 0
        form = given.get("-o") or given.get("--output") or "short"
        tail = given.get("-n") or given.get("--lines") or "all"
        at = max(0, len(service.log.lines) - int(tail)) if tail.isdigit() else 0
        while True:
            for when, line in service.log.lines[at:]:
                await terminal.write(_journal_line(form, self.host.name, service, when, line))
            at = len(service.log.lines)
            if "-f" not in argv and "--follow" not in argv:
                return 0
            await service.log.changed()


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
        "Restart": "always", "Description": name,
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
