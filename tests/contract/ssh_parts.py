"""SSH servers in front of a Docker Engine: the simulator's, and OpenSSH's."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from backends.cluster.tables import Node
from backends.simulator.cluster import SimulatedCluster
from tests.lab.parts import DockerEngine, OpenSsh


@dataclass(frozen=True)
class SshPart:
    """A server that can be reached as `settings` say, and what can be done to it."""

    settings: dict[str, Any]
    socket: str
    """The node's Docker socket."""
    folder: str
    """A folder of the node in which files may be made."""
    drops: Callable[[], Awaitable[None]]
    """All connections are cut, without a word."""
    refuses: Callable[[], Awaitable[None]]
    hangs: Callable[[], Awaitable[None]]
    """It accepts, and says nothing."""
    returns: Callable[[], Awaitable[None]]
    """It serves as at first."""

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.settings["port"])

    def node(self, **settings: Any) -> Node:
        """The node as an inventory has it."""
        ssh = self.settings | settings
        return Node.model_validate(
            {"name": "mark", "address": "127.0.0.1", "ssh": ssh, "docker": {"socket": self.socket}}
        )


class Sshs(Protocol):
    """Starts servers of one sort."""

    def serving(self, *, max_sessions: int = 10) -> AbstractAsyncContextManager[SshPart]:
        """One that serves."""
        ...


class SimulatedSshs:
    """The simulator's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def serving(self, *, max_sessions: int = 10) -> AsyncGenerator[SshPart, None]:
        """See Sshs."""
        sim = SimulatedCluster(self._folder / "sim", speed=20.0)
        node = sim.add_node("mark")
        async with sim:
            server = node.ssh
            assert server is not None
            server.max_sessions = max_sessions
            settings = {
                "user": node.user,
                "port": server.port,
                "key": str(sim.directory / "id_ed25519"),
                "known_hosts": str(sim.directory / "known_hosts"),
            }

            async def refuses() -> None:
                await server.refuse()
                await server.drop()

            async def hangs() -> None:
                await server.hang()
                await server.drop()

            yield SshPart(settings, str(node.docker_socket), "", server.drop, refuses, hangs, server.heal)


class RealSshs:
    """OpenSSH's, on loopback; the node's Docker is the lab's."""

    def __init__(self, folder: Path, docker: DockerEngine) -> None:
        self._folder = folder
        self._docker = docker

    @asynccontextmanager
    async def serving(self, *, max_sessions: int = 10) -> AsyncGenerator[SshPart, None]:
        """See Sshs."""
        env = {"DOCKER_HOST": f"unix://{self._docker.socket}"}
        server = OpenSsh(self._folder / "sshd", max_sessions=max_sessions, session_env=env)

        def cut(children: list[psutil.Process]) -> None:
            for child in children:
                with suppress(psutil.NoSuchProcess):  # it went with its parent
                    child.kill()

        async def drops() -> None:
            cut(psutil.Process(server.pid).children(recursive=True))

        async def refuses() -> None:
            os.kill(server.pid, signal.SIGSTOP)  # no child more, which would hold the port on
            children = psutil.Process(server.pid).children(recursive=True)
            await asyncio.to_thread(server.end, "KILL")
            cut(children)

        async def hangs() -> None:
            await drops()
            os.kill(server.pid, signal.SIGSTOP)

        async def returns() -> None:
            if server.running:
                os.kill(server.pid, signal.SIGCONT)
            else:
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(server.ready)

        settings = {
            "user": server.user, "port": server.port, "key": str(server.key), "known_hosts": str(server.known_hosts)
        }  # fmt: skip
        try:
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(server.ready)
            yield SshPart(settings, str(self._docker.socket), str(self._folder), drops, refuses, hangs, returns)
        finally:
            await asyncio.to_thread(server.close)
