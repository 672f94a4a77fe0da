"""How each node is touched: this machine directly, every other over its one SSH connection.

asyncssh is imported when the first remote node is entered, in a thread: it costs 0.3 s.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit, urlunsplit

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Docker, Endpoint, Node
from backends.cluster.words import KUBERNETES
from backends.errors import CommandError, ReachError, RuntimeFailure, SshError
from backends.reach import docker_words
from backends.reach.bridge import Bridge, Duplex
from backends.reach.clusters import Clusters
from backends.reach.docker import DockerRuntime
from backends.reach.files import Read, opened
from backends.reach.local import LocalShell
from backends.reach.newest import Newest, newest_here, newest_there
from backends.reach.runtime import Runtime, Shell
from backends.reach.services import MANAGERS
from backends.reach.ssh_import import import_ssh
from backends.secrets import Secrets, secret_variables

if TYPE_CHECKING:
    from backends.reach.kubernetes.exporter import DcgmExporter
    from backends.reach.kubernetes.runtime import KubernetesRuntime
    from backends.reach.ssh import SshLink
    from backends.reach.ssh_shell import SshShell

SOCKET: Final = "/var/run/docker.sock"
"""Where Docker listens if nothing is said."""

PATIENCE: Final = 10.0
"""Seconds that a node may take to answer, where nobody says otherwise."""

_PORTS = {"http": 80, "https": 443}


class NodeReach:
    """One node: its shell, its Docker, its services and its addresses; what it opened is closed on leaving."""

    def __init__(
        self,
        node: Node,
        inventory: Inventory,
        here: str | None,
        secrets: Secrets,
        *,
        polling: bool = True,
        clusters: Clusters | None = None,
    ) -> None:
        self._clusters = clusters or Clusters(inventory, secrets, polling=polling)
        self.node = node
        self.is_here = node.name == here
        self._inventory = inventory
        self._secrets = secrets
        self._polling = polling
        self._opened: tuple[SshLink, SshShell] | None = None
        self._local: LocalShell | None = None
        self._docker: tuple[DockerRuntime, Bridge | None] | None = None
        self._forwards: dict[tuple[str, int], tuple[int, Bridge]] = {}
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        if not self.is_here and self.node.ssh:
            await asyncio.to_thread(import_ssh, "backends.reach.ssh_shell")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def leads_to(self, node: Node) -> bool:
        """Whether a table that may have changed says the same of how its node is reached."""
        had = self.node
        return (had.address, had.os, had.ssh, had.docker, had.kubernetes) == (
            node.address, node.os, node.ssh, node.docker, node.kubernetes,
        )  # fmt: skip

    def adopt(self, node: Node, inventory: Inventory) -> None:
        """Go on with a changed inventory; what is open stays open."""
        self.node, self._inventory = node, inventory
        self._local = None  # it hides the variables that the inventory names as secrets

    @property
    def shell(self) -> Shell:
        """Runs commands on the node; SshError where it is neither this machine nor has `ssh`."""
        return self._here() if self.is_here else self._remote()[1]

    @property
    def stands(self) -> bool:
        """Whether an SSH connection to it stands, as far as is known."""
        return not self.is_here and self._opened is not None and self._opened[0].connected

    async def connected(self) -> None:
        """Wait for the SSH connection of a node that has one; SshError names what hinders it."""
        if not self.is_here and self.node.ssh:
            await self._remote()[0].connection()

    def tcp(self, host: str, port: int) -> AbstractAsyncContextManager[Duplex]:
        """A connection to an address as seen from the node; SshError where it is this machine, or has no `ssh`."""
        return self._remote()[0].tcp(host, port)

    async def runtime(self) -> Runtime:
        """The node's Docker, not yet asked; RuntimeFailure where it has none, SshError where there is no way to it."""
        return await self._engine()

    async def _engine(self) -> DockerRuntime:
        async with self._opening:
            if self._docker is None:
                self._docker = await self._open_docker()
        return self._docker[0]

    def file(self, path: str) -> AbstractAsyncContextManager[Read]:
        """Reads of a file of the node: here directly, elsewhere by SFTP."""
        if self.is_here:
            return opened(path)
        from backends.reach.node_files import over_ssh

        return over_ssh(self._remote()[0], path)

    async def size(self, path: str) -> int:
        """Bytes of a file of the node."""
        if self.is_here:
            try:
                return (await asyncio.to_thread(Path(path).stat)).st_size
            except OSError as error:
                raise ReachError(f"{path} cannot be read: {error.strerror or error}.") from None
        from backends.reach.node_files import size_over_ssh

        return await size_over_ssh(self._remote()[0], path)

    async def has_volume(self, name: str) -> bool:
        """Whether a container of the node has that volume, so that it can be read."""
        return bool(await (await self._engine()).holders(name))

    async def volume(self, name: str, path: str) -> AbstractAsyncContextManager[Read]:
        """Reads of a file in one of the node's Docker volumes."""
        from backends.reach.node_files import in_volume

        return in_volume(await self._engine(), name, path)

    async def newest(self, path: str, *, timeout: float) -> Newest:
        """The newest entry at a path of the node; OSError as the node has it, TimeoutError, ReachError."""
        async with asyncio.timeout(timeout):
            if self.is_here:
                return await newest_here(self._here(), path, timeout=timeout)
            return await newest_there(self._remote()[0], path)

    async def runtimes(self) -> tuple[Runtime, ...]:
        """All that the inventory has the node run its workloads by; an error as `runtime` raises it."""
        found: list[Runtime] = [await self._engine()] if self._inventory.runs_containers(self.node) else []
        found += [each for each in (self.kubernetes(), self.services()) if each is not None]
        return tuple(found)

    async def runtime_of(self, kind: str) -> Runtime:
        """The runtime of one kind; RuntimeFailure where the inventory names none of it here."""
        if kind == docker_words.KIND:
            return await self._engine()
        found = self.kubernetes() if kind == KUBERNETES else self.services()
        if found is None or found.kind != kind:
            raise RuntimeFailure(f"cluster.toml names no {kind} service on {self.node.name} any more.", "Plan anew.")
        return found

    def cluster(self) -> KubernetesRuntime:
        """What Kubernetes runs on the node; RuntimeFailure where it is not of a Kubernetes cluster."""
        found = self.kubernetes()
        if found is None:
            raise RuntimeFailure(f"{self.node.name} belongs to no Kubernetes cluster.")
        return found

    def kubernetes(self) -> KubernetesRuntime | None:
        """What Kubernetes runs on the node; None where it is not of a Kubernetes cluster."""
        named = self.node.kubernetes
        if named is None:
            return None
        from backends.reach.kubernetes.runtime import KubernetesRuntime

        workloads = [e.container for e in self._inventory.endpoints if e.node == self.node.name and e.container]
        names = frozenset((*workloads, *self.node.queue.order))
        return KubernetesRuntime(self._clusters[named.cluster], named.node or self.node.name, names)

    def exporter(self) -> DcgmExporter | None:
        """What may export the node's GPUs within its Kubernetes cluster; None where it is of none."""
        named = self.node.kubernetes
        if named is None:
            return None
        from backends.reach.kubernetes.exporter import DcgmExporter

        return DcgmExporter(self._clusters[named.cluster], named.node or self.node.name)

    def services(self) -> Runtime | None:
        """The native services that the inventory names on this node; None where it names none."""
        named = [e.service.split(":", 1) for e in self._inventory.endpoints if e.node == self.node.name and e.service]
        if not named:
            return None
        manager = named[0][0]
        names = list(dict.fromkeys(name for kind, name in named if kind == manager))
        return MANAGERS[manager](self.node.name, self.shell, names, gpu=self.node.gpus != "none")

    async def resolve_url(self, endpoint: Endpoint, url: str | None = None, *, timeout: float = PATIENCE) -> str:
        """The address to ask from here for `url` of an endpoint of this node (its own if nothing is said).

        `localhost` is the node. With via = "ssh" it is a port of ours that leads there; SshError where there is no
        SSH connection within `timeout` seconds.
        """
        url = url or endpoint.url
        parts = urlsplit(url)
        host = parts.hostname or ""
        if endpoint.via == "kubernetes" and self.node.kubernetes is not None:
            port = await self._clusters.service(self.node.kubernetes.cluster, url)
            return urlunsplit(parts._replace(scheme="http", netloc=f"127.0.0.1:{port}"))
        if self.is_here:
            return url
        if endpoint.via == "ssh":
            port = await self.forward(host, parts.port or _PORTS[parts.scheme], timeout)
            return urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        if host != "localhost":
            return url
        address = f"[{self.node.address}]" if ":" in self.node.address else self.node.address
        return urlunsplit(parts._replace(netloc=f"{address}:{parts.port}" if parts.port else address))

    def trouble(self, endpoint: Endpoint, url: str | None = None) -> ReachError | None:
        """Why the far end of a `via = "ssh"` address was not reached, after its local port was closed on us."""
        parts = urlsplit(url or endpoint.url)
        forward = self._forwards.get((parts.hostname or "", parts.port or _PORTS[parts.scheme]))
        return forward[1].failure if forward else None

    async def close(self) -> None:
        """Close Docker, all forwarded sockets and ports, and then the SSH connection."""
        docker, self._docker = self._docker, None
        if docker:
            await docker[0].close()
        bridges = [bridge for _, bridge in self._forwards.values()]
        self._forwards = {}
        await asyncio.gather(*(b.close() for b in [*bridges, docker[1] if docker else None] if b))
        opened, self._opened = self._opened, None
        if opened:
            await opened[0].close()

    def _here(self) -> LocalShell:
        if self._local is None:
            hidden = secret_variables(self._inventory)
            self._local = LocalShell({k: v for k, v in os.environ.items() if k not in hidden})
        return self._local

    def _remote(self) -> tuple[SshLink, SshShell]:
        if self._opened is None:
            ssh = import_ssh("backends.reach.ssh")
            shell = import_ssh("backends.reach.ssh_shell")
            reference = self.node.ssh.password if self.node.ssh else None
            password = partial(self._secrets.resolve, reference, polling=self._polling) if reference else None
            link = ssh.SshLink(ssh.target_of(self.node), password)
            self._opened = link, shell.SshShell(link)
        return self._opened

    async def forward(self, host: str, port: int, timeout: float = PATIENCE) -> int:
        """A port of ours that leads to an address as the node sees it; SshError where there is no SSH connection."""
        link = self._remote()[0]
        try:
            async with asyncio.timeout(timeout):
                await link.connection()
        except TimeoutError:
            raise link.unfinished(timeout) from None
        async with self._opening:
            if (host, port) not in self._forwards:
                self._forwards[host, port] = await link.forward_port(host, port)
        return self._forwards[host, port][0]

    async def _open_docker(self) -> tuple[DockerRuntime, Bridge | None]:
        name = self.node.name
        if self.node.docker is False:
            raise RuntimeFailure(f"{name} has no Docker: docker = false in cluster.toml.")
        settings = self.node.docker or Docker()
        socket = (settings.socket or SOCKET).removeprefix("unix://")
        opener: Callable[[], AbstractAsyncContextManager[Duplex]]
        if settings.context or (self.node.os == "windows" and not settings.socket):
            shell = self._here() if self.is_here else self._remote()[1]
            context = ["--context", settings.context] if settings.context else []
            opener = partial(shell.pipe, ["docker", *context, "system", "dial-stdio"])
        elif self.is_here:
            return DockerRuntime(name, [socket] if settings.socket else _usual_sockets()), None
        else:
            self._remote()  # raises where the node is not reached at all
            opener = partial(self._remote_socket, socket)
        bridge = Bridge(opener)
        return DockerRuntime(name, [await bridge.listen_unix()], why=lambda: self._behind(bridge)), bridge

    def _behind(self, bridge: Bridge) -> ReachError | None:
        """Why a bridge to Docker does not carry: what it met, else that SSH is still being waited for."""
        if bridge.failure or self.is_here:
            return bridge.failure
        link = self._remote()[0]
        return None if link.connected else link.unfinished(link.connect_limit)

    @asynccontextmanager
    async def _remote_socket(self, path: str) -> AsyncGenerator[Duplex, None]:
        link, shell = self._remote()
        try:
            async with link.unix(path) as duplex:
                yield duplex
        except CommandError as error:
            raise await self._no_socket(shell, path, error) from error

    async def _no_socket(self, shell: SshShell, path: str, error: CommandError) -> ReachError:
        """What is the matter with Docker's socket on the node; SSH itself says only that it does not open."""
        node = self.node.name
        if "prohibited" in error.message:
            return RuntimeFailure(
                f"Docker on {node}: its SSH server forwards no sockets ({error.message}).",
                "Allow it (AllowStreamLocalForwarding yes in sshd_config), or name a docker context.",
            )
        try:
            there = await shell.run(["test", "-e", path], timeout=PATIENCE)
            ours = await shell.run(["test", "-w", path], timeout=PATIENCE)
        except (SshError, TimeoutError):
            return RuntimeFailure(f"Docker on {node}: {error.message}")
        number = errno.ENOENT if there.status else errno.EACCES if ours.status else errno.ECONNREFUSED
        return docker_words.no_answer(node, path, OSError(number, os.strerror(number)))


def _usual_sockets() -> list[str]:
    """Where Docker listens on this machine: the system's, Docker Desktop's on macOS, a user's own."""
    return [SOCKET, str(Path.home() / ".docker/run/docker.sock"), f"/run/user/{os.getuid()}/docker.sock"]
