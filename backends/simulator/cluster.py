"""The embedded cluster: nodes, endpoints and their inventory, all on loopback, all closed on every way out."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

import asyncssh
import tomli_w

from backends.simulator.catalogue import Fault
from backends.simulator.containers import SimContainer, SimService, Spec
from backends.simulator.engines.base import Engine
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.httpserver import Fence, HttpServer
from backends.simulator.node import SimNode
from backends.simulator.physics import Device, SimGpu, SimHost, Vendor
from backends.simulator.ports import LOOPBACK
from backends.simulator.program import Program
from backends.simulator.world import World

State = Literal["ready", "starting", "stopped"]


@dataclass(slots=True)
class SimEndpoint:
    """One endpoint: its engine, its address, and what it runs in."""

    name: str
    tier: str
    node: str | None
    engine: Engine
    server: HttpServer
    program: Program
    container: SimContainer | None
    service: SimService
    state: State
    fields: dict[str, Any] = field(default_factory=dict)
    """What else the inventory says of it."""

    def start(self, *, at_once: bool = False) -> None:
        """Start it, unless it runs."""
        if self.container is None:
            self.service.start(at_once=at_once)
        elif not self.container.running:
            self.container.start(at_once=at_once)

    async def stop(self) -> None:
        """Stop it."""
        if self.container is None:
            await self.service.stop()
        else:
            await self.container.end(0)


class SimulatedCluster:
    """Describe it with `add_node` and `add_endpoint`, then enter it.

    `speed` is story seconds per real second. Inside, `inventory` is the text of `directory/cluster.toml`, and
    `secrets` holds the values of its env: references.
    """

    def __init__(
        self, directory: Path, *, name: str = "simulated", speed: float = 1.0, rng: random.Random | None = None
    ) -> None:
        self.directory = directory
        self.name = name
        self.world = World(speed, rng or random.Random(0))
        self.nodes: dict[str, SimNode] = {}
        self.endpoints: dict[str, SimEndpoint] = {}
        self.faults: list[Fault] = []
        self.secrets: dict[str, str] = {}
        self.extra: dict[str, Any] = {}
        """Further tables of the inventory: defaults, router, gateway, ..."""
        self.background: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """What goes on besides for as long as the cluster is open."""
        self.inventory = ""
        self._tiers: dict[str, None] = {}
        self._node_fields: dict[str, dict[str, Any]] = {}
        self._bystanders: list[SimContainer] = []
        self._sockets = Path(tempfile.gettempdir(), f"tierdeck-sim-{uuid4().hex[:12]}")
        self._stack = AsyncExitStack()

    @property
    def inventory_path(self) -> Path:
        """Where the inventory lies."""
        return self.directory / "cluster.toml"

    def gpu(self, index: int, name: str, memory_mib: float, **options: Any) -> SimGpu:
        """A GPU for `add_node`."""
        return SimGpu(index, name, memory_mib, self.world, **options)

    def add_node(
        self,
        name: str,
        *,
        gpus: Sequence[SimGpu] = (),
        vendor: Vendor | None = None,
        os: Literal["linux", "windows", "macos"] = "linux",
        memory_mib: float = 65536.0,
        ssh: bool = True,
        docker: bool = True,
        password: str = "",
        fields: dict[str, Any] | None = None,
    ) -> SimNode:
        """One more machine; with a `password` it is reached by that instead of the key."""
        kind: Vendor = vendor or ("nvidia" if gpus else "none")
        host = SimHost(name, self.world, os=os, vendor=kind, gpus=gpus, memory_mib=memory_mib)
        folder = self.directory / "nodes" / name
        node = SimNode(self.world, host, folder=folder, sockets=self._sockets, password=password, with_docker=docker)
        self.nodes[name] = node
        self._node_fields[name] = {"ssh": ssh, **(fields or {})}
        return node

    def add_endpoint(
        self,
        name: str,
        engine: Engine,
        *,
        tier: str = "LOCAL",
        node: str | None = None,
        container: str | Spec | None = None,
        service: str | None = None,
        gpu: int | None = None,
        vram_mib: float = 0.0,
        init_s: float = 1.5,
        load_s: float = 8.0,
        state: State = "ready",
        tasks: Sequence[str] = (),
        fence: Fence | None = None,
        **fields: Any,
    ) -> SimEndpoint:
        """One more endpoint; in a container, as a systemd service, or as a process of nobody's.

        Behind a `fence` it is reached through its node's SSH only; `fields` go into the inventory as they are.
        """
        self._tiers[tier] = None
        where = self.nodes[node] if node else None
        device = Device(where.host, where.host.gpus[gpu]) if where and gpu is not None else None
        server = HttpServer(engine.answer, name=name, fence=fence)
        program = Program(self.world, engine, server, device=device, vram_mib=vram_mib, init_s=init_s, load_s=load_s)
        boxed = self._container(where, container, program, gpu is not None) if container else None
        native = SimService(self.world, service or name, program)
        if where is not None:
            where.servers.append(server)
            if boxed is None:
                where.services[native.name] = native
        if boxed is not None:
            fields["container"] = boxed.name
        elif service:
            fields["service"] = f"systemd:{service}"
        if tasks:
            fields["tasks"] = list(tasks)
        endpoint = SimEndpoint(name, tier, node, engine, server, program, boxed, native, state, fields)
        self.endpoints[name] = endpoint
        return endpoint

    def runs_engines(self, node: str, *, registry: Sequence[OllamaModel] = ()) -> None:
        """Containers that are made on a node with a published port run an engine, on its first GPU if any.

        It is Ollama, which can pull from `registry`, where the image says so, else llama.cpp's server.
        """
        where = self.nodes[node]
        assert where.docker is not None
        disk = where.docker.disk

        def launch(body: dict[str, Any], name: str) -> Program | None:
            host = body.get("HostConfig") or {}
            ports = [b for bindings in (host.get("PortBindings") or {}).values() for b in bindings]
            if not ports:
                return None
            engine: LlamaCpp | Ollama = LlamaCpp(self.world, models=[name])
            if "ollama" in str(body.get("Image")):
                engine = Ollama(self.world)
                mounts = {mount["Target"]: mount["Source"] for mount in host.get("Mounts") or []}
                if "/models" in mounts:
                    engine.blobs = disk.volume(mounts["/models"]) / "ollama" / "blobs"
                engine.registry = {model.name: model for model in registry}
            server = HttpServer(engine.answer, name=name, number=int(ports[0]["HostPort"]))
            gpu = where.host.gpus[0] if where.host.gpus and host.get("DeviceRequests") else None
            device = Device(where.host, gpu) if gpu else None
            return Program(self.world, engine, server, device=device, vram_mib=3000.0, init_s=0.1, load_s=0.2)

        where.docker.launch = launch

    def add_container(self, node: str, spec: Spec, *, running: bool = True) -> SimContainer:
        """A container without an engine of the inventory: a bystander."""
        container = self._container(self.nodes[node], spec, None, spec.gpu)
        if running:
            self._bystanders.append(container)
        return container

    def _container(self, node: SimNode | None, wanted: str | Spec, program: Program | None, gpu: bool) -> SimContainer:
        assert node is not None
        assert node.docker is not None
        spec = wanted if isinstance(wanted, Spec) else Spec(wanted, gpu=gpu)
        container = SimContainer(self.world, spec, program, node.docker.events.tell)
        node.docker.add(container)
        return container

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._sockets.mkdir(mode=0o700)
        client_key = asyncssh.generate_private_key("ssh-ed25519")
        key_file = self.directory / "id_ed25519"
        _write(key_file, client_key.export_private_key().decode())
        for endpoint in self.endpoints.values():
            await self._stack.enter_async_context(endpoint.server)
            self._stack.push_async_callback(endpoint.service.stop)
        known_hosts = ""
        host_key = asyncssh.generate_private_key("ssh-ed25519") if len(self.nodes) > 20 else None
        for name, node in self.nodes.items():
            await self._stack.enter_async_context(node)
            if self._node_fields[name]["ssh"]:
                await node.open_ssh(client_key, host_key or asyncssh.generate_private_key("ssh-ed25519"))
                assert node.ssh is not None
                known_hosts += node.ssh.known_hosts_line()
        _write(self.directory / "known_hosts", known_hosts)
        self.inventory = self._text()
        _write(self.inventory_path, self.inventory)
        for endpoint in self.endpoints.values():
            if endpoint.state != "stopped":
                endpoint.start(at_once=endpoint.state == "ready")
        for bystander in self._bystanders:
            bystander.start()
        for job in self.background:
            task = asyncio.ensure_future(job())
            self._stack.push_async_callback(_end, task)
        ready = [e.program for e in self.endpoints.values() if e.state == "ready"]
        await asyncio.gather(*(program.became_ready.wait() for program in ready))

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._stack.aclose()
        finally:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def heal_all(self) -> None:
        """Mend everything that was broken through `faults`."""
        for fault in self.faults:
            if fault.active:
                await self.heal(fault)

    async def inflict(self, fault: Fault) -> None:
        """Break it."""
        fault.active = True
        await fault.apply()

    async def heal(self, fault: Fault) -> None:
        """Mend it."""
        await fault.heal()
        fault.active = False

    def _text(self) -> str:
        """The inventory, in the order and with the double brackets in which a person writes it."""
        extra = dict(self.extra)
        head = {"version": 1, "name": self.name}
        first = {key: extra.pop(key) for key in ("lock_host", "defaults") if key in extra}
        blocks = [tomli_w.dumps(head | first)]
        for key, tables in (
            ("nodes", [self._node_table(node) for node in self.nodes.values()]),
            ("tiers", [{"name": tier} for tier in self._tiers]),
            ("endpoints", [self._endpoint_table(endpoint) for endpoint in self.endpoints.values()]),
        ):
            for table in tables:
                plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
                inner = {k: v for k, v in table.items() if isinstance(v, dict)}
                nested = "".join(f"[{key}.{k}]\n{tomli_w.dumps(v)}" for k, v in inner.items())
                blocks.append(f"[[{key}]]\n{tomli_w.dumps(plain)}{nested}")
        return "\n".join([*blocks, tomli_w.dumps(extra)])

    def _node_table(self, node: SimNode) -> dict[str, Any]:
        table: dict[str, Any] = {"name": node.name, "address": LOOPBACK, "os": node.host.os}
        if node.ssh is not None:
            table["ssh"] = {
                "user": node.user,
                "port": node.ssh.port,
                "known_hosts": str(self.directory / "known_hosts"),
            }
            if node.password:
                reference = f"SIM_PASSWORD_{node.name.upper()}"
                self.secrets[reference] = node.password
                table["ssh"]["password"] = f"env:{reference}"
            else:
                table["ssh"]["key"] = str(self.directory / "id_ed25519")
        table["gpus"] = node.host.vendor
        table["docker"] = {"socket": str(node.docker_socket)} if node.docker else False
        return table | {k: v for k, v in self._node_fields[node.name].items() if k != "ssh"}

    def _endpoint_table(self, endpoint: SimEndpoint) -> dict[str, Any]:
        table: dict[str, Any] = {"name": endpoint.name, "tier": endpoint.tier}
        if endpoint.node:
            table["node"] = endpoint.node
        table |= {"engine": endpoint.engine.kind, "url": endpoint.server.url}
        if endpoint.engine.api_key:
            reference = "SIM_KEY_" + "".join(c if c.isalnum() else "_" for c in endpoint.name.upper())
            self.secrets[reference] = endpoint.engine.api_key
            table["api_key"] = f"env:{reference}"
        return table | endpoint.fields


async def _end(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _write(path: Path, text: str) -> None:
    """A file for nobody else's eyes."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
