"""Docker Engine: the simulator's API on a unix socket, and a dockerd of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.lab.parts import TINY, VOLUME, DockerEngine, free_port

SCRIPT = (
    "trap 'exit 3' USR1; trap 'exit 0' TERM; echo first; echo second; echo third >&2; while :; do sleep 1 & wait; done"
)


@dataclass(frozen=True)
class DockerPart:
    """An engine with two containers that run: `gpu`, with a GPU, a volume and a port, and `plain`."""

    socket: str
    gpu: str
    plain: str
    port: int
    """Where `gpu` is published."""
    exits: Callable[[str], Awaitable[None]]
    """Has the container's own process end with status 3."""
    says: Callable[[str, str], Awaitable[None]]
    """Has the container write a line."""


@dataclass(frozen=True)
class SparePart:
    """An engine without a GPU driver, with a container `wants` that asks for one; it may be killed."""

    socket: str
    wants: str
    dies: Callable[[], Awaitable[None]]
    returns: Callable[[], Awaitable[None]]


class Dockers(Protocol):
    """Starts engines of one sort."""

    def running(self) -> AbstractAsyncContextManager[DockerPart]:
        """One with containers on it."""
        ...

    def spare(self) -> AbstractAsyncContextManager[SparePart]:
        """One to be broken."""
        ...


class SimulatedDockers:
    """The simulator's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[DockerPart, None]:
        """See Dockers."""
        sim = SimulatedCluster(self._folder / "sim", speed=20.0)
        node = sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], ssh=False)
        spec = Spec("gpu", gpu=True, restart="unless-stopped", volumes={VOLUME: "/models"})
        end = sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"]), node="mark", container=spec, gpu=0)
        sim.add_endpoint("b", LlamaCpp(sim.world, models=["m"]), node="mark", container="plain")

        async def exits(name: str) -> None:
            node.container(name).crash(3)

        async def says(name: str, line: str) -> None:
            node.container(name).log.write(line)

        async with sim:
            for name in ("gpu", "plain"):
                log = node.container(name).log
                log.lines.clear()
                for line in ("first", "second", "third"):
                    log.write(line)
            yield DockerPart(str(node.docker_socket), "gpu", "plain", end.server.port, exits, says)

    @asynccontextmanager
    async def spare(self) -> AsyncGenerator[SparePart, None]:
        """See Dockers."""
        sim = SimulatedCluster(self._folder / "sim", speed=20.0)
        node = sim.add_node("bare", ssh=False)
        sim.add_container("bare", Spec("wants", gpu=True), running=False)
        assert node.docker is not None
        async with sim:
            yield SparePart(str(node.docker_socket), "wants", node.docker.server.close, node.docker.server.open)


class RealDockers:
    """Real ones; the containers of `running` are made anew for each test on one engine."""

    def __init__(self, folder: Path, engine: DockerEngine) -> None:
        self._folder = folder
        self._engine = engine

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[DockerPart, None]:
        """See Dockers."""
        engine, port = self._engine, free_port()

        async def docker(*args: str) -> None:
            await asyncio.to_thread(engine.docker, *args)

        async def exits(name: str) -> None:
            await docker("exec", "-d", name, "kill", "-USR1", "1")  # `docker kill` would count as stopped by hand

        async def says(name: str, line: str) -> None:
            await docker("exec", name, "sh", "-c", f"echo '{line}' >/proc/1/fd/1")

        image, command = engine.image(TINY), ["sh", "-c", SCRIPT]
        options = ["--gpus", "all", "-v", f"{VOLUME}:/models", "-p", f"{port}:8000", "--restart", "unless-stopped"]
        try:
            await docker("run", "-d", "--name", "gpu", *options, image, *command)
            await docker("run", "-d", "--name", "plain", image, *command)
            yield DockerPart(str(engine.socket), "gpu", "plain", port, exits, says)
        finally:
            await docker("rm", "-f", "gpu", "plain")
            await docker("volume", "rm", VOLUME)

    @asynccontextmanager
    async def spare(self) -> AsyncGenerator[SparePart, None]:
        """See Dockers."""
        engine = DockerEngine(self._folder / "spare", gpus=False)

        async def dies() -> None:
            await asyncio.to_thread(engine.kill)

        async def returns() -> None:
            await asyncio.to_thread(engine.restart)

        try:
            await asyncio.to_thread(engine.start)
            await asyncio.to_thread(engine.ready)
            await asyncio.to_thread(engine.docker, "create", "--name", "wants", "--gpus", "all", engine.image(TINY))
            yield SparePart(str(engine.socket), "wants", dies, returns)
        finally:
            await asyncio.to_thread(engine.close)
