"""Looks at this machine: its GPUs, its containers, and the engines that listen on it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import psutil

from backends.cluster.engines import ENGINES, EngineName
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, Workload
from backends.cluster.tables import Node
from backends.discovery.engines import Identity, by_image, identify, likeliest
from backends.engines.http import Http
from backends.errors import CommandError, ReachError
from backends.gpus.source import read_once
from backends.reach.local import hostname, is_loopback
from backends.reach.nodes import NodeReach
from backends.reach.runtime import Runtime, Shell
from backends.secrets import Secrets

Os = Literal["linux", "macos"]
Gpus = Literal["nvidia", "amd", "apple", "none"]

MOST_PORTS: Final = 64
"""Ports asked at most; those at which engines usually listen come first."""

SIDE_BY_SIDE: Final = 32
"""Ports asked at once."""

LIMIT: Final = 10.0
"""Seconds for Docker, and for each kind of GPU."""

_OTHERS: Final = frozenset({1433, 1521, 1883, 2049, 3306, 3389, 5432, 5672, 5900, 6379, 9042, 9092, 11211, 27017})
"""Ports of databases, desktops and queues: left in peace, as are all below 1024 but 80."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP port of this machine; `public` where it is open to other machines, too."""

    port: int
    public: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine as it is looked at; everything outside is passed in."""

    name: str
    address: str
    os: Os
    shell: Shell
    docker: Runtime
    listeners: Callable[[], Iterable[Listener]]


@dataclass(frozen=True, slots=True)
class FoundEngine:
    """An engine at a port of this machine, in a container or not.

    `running` is False for what a stopped container will be, `maybe` names the container it may run in.
    """

    name: str
    engine: EngineName
    port: int
    container: str = ""
    image: str = ""
    running: bool = True
    locked: bool = False
    public: bool = True
    maybe: str = ""

    @property
    def url(self) -> str:
        """Its address; `localhost` means the endpoint's node, so it is right on every node."""
        return f"http://localhost:{self.port}"


@dataclass(frozen=True, slots=True)
class Found:
    """What a machine told of itself; `remarks` is what could not be seen, and why."""

    name: str
    address: str
    os: Os
    gpu_kind: Gpus = "none"
    gpus: tuple[Gpu, ...] = ()
    engines: tuple[FoundEngine, ...] = ()
    queue: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@asynccontextmanager
async def this_machine() -> AsyncGenerator[Machine, None]:
    """The machine we stand on, by its own commands, Docker socket and sockets."""
    full = hostname()
    name = full.partition(".")[0].lower()
    name = "here" if not name or is_loopback(name) else name
    system: Os = "macos" if sys.platform == "darwin" else "linux"
    node = Node(name=name, address=own_address() or full, os=system)
    async with NodeReach(node, Inventory(version=1, name=name, nodes=(node,)), name, Secrets()) as reach:
        yield Machine(name, node.address, system, reach.shell, await reach.runtime(), listeners)


async def look(machine: Machine, http: Http) -> Found:
    """Everything that can be found without loading, starting or changing anything; never raises for what is not."""
    (containers, trouble), (kind, gpus, remarks), listening = await asyncio.gather(
        _containers(machine.docker), _gpus(machine), asyncio.to_thread(_listening, machine)
    )
    published = {port: Listener(port, public=True) for c in containers if c.running for port in c.ports}
    answers = await _ask(http, published | listening)
    public = {port for port, listener in (published | listening).items() if listener.public}
    engines = _unique(_boxed(containers, answers) + _native(containers, answers))
    queue, left_out = _queue(containers, engines)
    return Found(
        machine.name,
        machine.address,
        machine.os,
        kind,
        gpus,
        tuple(replace(engine, public=engine.port in public or not engine.running) for engine in engines),
        queue,
        (*trouble, *remarks, *left_out),
    )


def listeners() -> list[Listener]:
    """The TCP ports on which this machine listens, on loopback or on all addresses; those of one address are left out.

    Where only root sees all of them (macOS), those of our own processes.
    """
    ports: dict[int, bool] = {}
    for address, port in _listening_sockets():
        every = address in ("0.0.0.0", "::")
        if every or is_loopback(address):
            ports[port] = ports.get(port, False) or every
    return [Listener(port, public) for port, public in sorted(ports.items())]


def own_address() -> str | None:
    """The address by which other machines know this one: that of its default route. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the addresses kept for documentation (RFC 5737)
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if is_loopback(address) or address == "0.0.0.0" else address


def _listening_sockets() -> list[tuple[str, int]]:
    try:
        return _addresses(psutil.net_connections("tcp"))
    except psutil.AccessDenied:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                found += _addresses(process.net_connections("tcp"))
        return found


def _addresses(connections: Iterable[Any]) -> list[tuple[str, int]]:
    return [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]


def _listening(machine: Machine) -> dict[int, Listener]:
    return {listener.port: listener for listener in machine.listeners()}


async def _containers(docker: Runtime) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    try:
        async with asyncio.timeout(LIMIT):
            return await docker.workloads(), ()
    except ReachError as error:
        return (), (str(error),)
    except TimeoutError:
        return (), (f"Docker did not tell its containers within {LIMIT:g} s.",)


async def _gpus(machine: Machine) -> tuple[Gpus, tuple[Gpu, ...], tuple[str, ...]]:
    """Whose GPUs there are, which, and remarks on those that do not answer."""
    kinds: tuple[Gpus, ...] = ("apple",) if machine.os == "macos" else ("nvidia", "amd")
    answers = await asyncio.gather(*(_gpus_of(machine, kind) for kind in kinds))
    told = [(kind, gpus) for kind, (gpus, _) in zip(kinds, answers, strict=True) if gpus]
    remarks = [remark for _, remark in answers if remark]
    if len(told) > 1:
        remarks.append("GPUs of two makers: a node has those of one in cluster.toml; NVIDIA's were taken.")
    kind, gpus = told[0] if told else ("none", ())
    return kind, gpus, tuple(remarks)


async def _gpus_of(machine: Machine, kind: Gpus) -> tuple[tuple[Gpu, ...], str]:
    node = Node(name=machine.name, address=machine.address, os=machine.os, gpus=kind)
    try:
        return await read_once(node, machine.shell, timeout=LIMIT), ""
    except ReachError as error:
        missing = isinstance(error, CommandError) and error.status == 127
        return (), "" if missing else f'{error} If it has such GPUs, say gpus = "{kind}".'


async def _ask(http: Http, listening: Mapping[int, Listener]) -> dict[int, Identity]:
    """What answered at which port; the ports are asked side by side."""
    usual = [port for facts in ENGINES.values() for port in facts.ports]
    worth = [port for port in listening if (port >= 1024 or port == 80) and port not in _OTHERS]
    ports = sorted(worth, key=lambda port: (port not in usual, port))[:MOST_PORTS]
    gate = asyncio.Semaphore(SIDE_BY_SIDE)

    async def ask(port: int) -> Identity | None:
        async with gate:
            return await identify(http, f"http://localhost:{port}")

    answers = await asyncio.gather(*(ask(port) for port in ports))
    return {port: answer for port, answer in zip(ports, answers, strict=True) if answer}


def _boxed(containers: Sequence[Workload], answers: Mapping[int, Identity]) -> list[FoundEngine]:
    """The engines in containers: those that answer, and those whose image tells what they will be."""
    found = []
    for container in sorted(containers, key=lambda c: c.name):
        answering = [(p, i) for p in container.ports if container.running and (i := answers.get(p))]
        known = [(port, i.engine, i.locked) for port, i in answering if i.engine]
        hint = by_image(container.image)
        port = likeliest(hint, container.ports) if hint else None
        if not known and hint and port is not None:
            known = [(port, hint, any(i.locked for p, i in answering if p == port))]
        for port, engine, locked in known:
            found.append(
                FoundEngine(
                    _prefixed(engine, container.name),
                    engine,
                    port,
                    container=container.name,
                    image=container.image,
                    running=container.running,
                    locked=locked,
                )
            )
    return found


def _native(containers: Sequence[Workload], answers: Mapping[int, Identity]) -> list[FoundEngine]:
    """The engines at ports that no container publishes: native ones, or in a container on the host's own network."""
    published = {port for c in containers if c.running for port in c.ports}
    found = []
    for port, identity in answers.items():
        if identity.engine and port not in published:
            inside = [c.name for c in containers if c.running and not c.ports and by_image(c.image) == identity.engine]
            found.append(
                FoundEngine(
                    _prefixed(identity.engine, identity.engine),
                    identity.engine,
                    port,
                    locked=identity.locked,
                    maybe=inside[0] if len(inside) == 1 else "",
                )
            )
    return found


def _prefixed(engine: EngineName, name: str) -> str:
    return f"gateway/{name}" if engine == "litellm" else f"local/{name}"


def _unique(engines: Sequence[FoundEngine]) -> list[FoundEngine]:
    """The engines, their ports added to names that are taken."""
    taken: set[str] = set()
    named = []
    for engine in engines:
        name = engine.name if engine.name not in taken else f"{engine.name}-{engine.port}"
        taken.add(name)
        named.append(replace(engine, name=name))
    return named


def _queue(containers: Sequence[Workload], engines: Sequence[FoundEngine]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The GPU containers in the order in which they were started, and a remark on those that are not queued."""
    serving = {engine.container for engine in engines}
    on_gpu = [c for c in containers if c.gpu]
    queued = [c for c in on_gpu if c.running or c.name in serving]
    queued.sort(key=lambda c: (not c.running, c.started_at or 0.0, c.name))
    others = ", ".join(c.name for c in on_gpu if c not in queued)
    remark = (f"Stopped GPU containers without an engine known by name are not queued: {others}.",) if others else ()
    return tuple(c.name for c in queued), remark
