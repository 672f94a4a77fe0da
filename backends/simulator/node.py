"""A machine of the cluster: its hardware, its Docker Engine, its services and its SSH server, on and off together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import asyncssh

from backends.simulator.commands import Commands
from backends.simulator.containers import SimContainer, SimService
from backends.simulator.docker_api import SimDocker
from backends.simulator.httpfaults import HttpFault
from backends.simulator.httpserver import HttpServer
from backends.simulator.physics import SimHost
from backends.simulator.ssh_server import SimSsh
from backends.simulator.world import World

Gone = Literal["refuse", "black_hole"]


class SimNode:
    """One node; `docker` and `ssh` are None where it has none. Use as an async context."""

    def __init__(
        self,
        world: World,
        host: SimHost,
        *,
        folder: Path,
        sockets: Path,
        user: str = "ops",
        password: str = "",
        with_docker: bool = True,
    ) -> None:
        self.world = world
        self.host = host
        self.folder = folder
        self.user = user
        self.password = password
        self.services: dict[str, SimService] = {}
        self.servers: list[HttpServer] = []
        """The addresses of this node's engines."""
        self.docker = SimDocker(world, host, sockets / f"{host.name}.sock") if with_docker else None
        self.ssh: SimSsh | None = None
        self.powered = True
        self._ran: list[SimContainer] = []
        self._served: list[SimService] = []
        self._stack = AsyncExitStack()

    @property
    def name(self) -> str:
        """Its name."""
        return self.host.name

    @property
    def docker_socket(self) -> Path | None:
        """Where its Docker Engine listens."""
        return self.docker.server.path if self.docker else None

    @property
    def commands(self) -> Commands:
        """What its shell knows and has run."""
        assert self.ssh is not None
        return self.ssh.commands

    async def __aenter__(self) -> SimNode:
        if self.docker is not None:
            await self._stack.enter_async_context(self.docker)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open_ssh(self, client_key: asyncssh.SSHKey, host_key: asyncssh.SSHKey) -> None:
        """Begin to serve SSH."""
        self.folder.mkdir(parents=True, exist_ok=True)
        commands = Commands(
            self.host,
            docker_socket=self.docker_socket,
            services=self.services,
            folder=self.folder,
            user=self.user,
            restart_docker=self.restart_docker,
            docker_is_up=lambda: self.docker is not None and self.docker.server.is_open,
        )
        ssh = SimSsh(
            commands,
            folder=self.folder,
            user=self.user,
            password=self.password,
            client_key=client_key,
            host_key=host_key,
            docker_socket=self.docker_socket,
            inner_port=self._inner_port,
        )
        self.ssh = await self._stack.enter_async_context(ssh)

    def _inner_port(self, port: int) -> int:
        return next((s.inner_port for s in self.servers if s.port == port), port)

    def container(self, name: str) -> SimContainer:
        """A container by name."""
        assert self.docker is not None
        return self.docker.containers[name]

    async def stop_docker(self) -> None:
        """The engine ends and takes its containers along; the socket refuses."""
        assert self.docker is not None
        running = [c for c in self.docker.containers.values() if c.running]
        await asyncio.gather(*(c.end(137, by_hand=False) for c in running))
        await self.docker.server.close()

    async def start_docker(self) -> None:
        """The engine comes back; every container whose policy says so starts, all at once."""
        assert self.docker is not None
        await self.docker.server.open()
        for container in self.docker.starting_with_the_engine():
            if not container.running:
                container.start()

    async def restart_docker(self) -> None:
        """What `systemctl restart docker` does."""
        await self.stop_docker()
        await self.world.sleep(1.0)
        await self.start_docker()

    async def power_off(self, gone: Gone = "black_hole") -> None:
        """No power: everything ends, and nothing answers or everything refuses."""
        self.powered = False
        if self.docker is not None:
            self._ran = [c for c in self.docker.containers.values() if c.running]
            await asyncio.gather(*(c.end(137, by_hand=False) for c in self._ran))
            await self.docker.server.close()
        self._served = [s for s in self.services.values() if s.state == "active"]
        await asyncio.gather(*(s.stop() for s in self._served))
        for server in self.servers:
            await server.inflict(HttpFault(gone))
        if self.ssh is not None:
            if gone == "black_hole":
                await self.ssh.go_dark()
            else:
                await self.ssh.refuse()
                await self.ssh.drop()

    async def power_on(self, *, at_once: bool = True) -> None:
        """Power again: what ran runs, ready at once or as after a real boot, all together."""
        if self.powered:
            return
        self.powered = True
        self.host.find_gpus()
        for server in self.servers:
            await server.heal()
        if self.ssh is not None:
            await self.ssh.heal()
        if self.docker is not None:
            await self.docker.server.open()
        for service in self._served:
            service.start(at_once=at_once)
        back = self._ran if at_once else (self.docker.starting_with_the_engine() if self.docker else [])
        for container in back:
            if not container.running:
                container.start(at_once=at_once)
        self._ran, self._served = [], []
