"""The inventory: what cluster.toml says the cluster is made of.

The attribute docstrings here are the manual: `tierdeck schema` prints them, the README is generated from nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.cluster.fields import (
    Address,
    Age,
    Duration,
    Heartbeat,
    Mac,
    Mib,
    Name,
    Pause,
    Quiet,
    Reference,
    Rung,
    Service,
    Task,
    Url,
)
from backends.cluster.words import TASKS


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Defaults(_Table):
    """What holds for every endpoint that does not say otherwise."""

    interval: Duration = 5.0
    """How often an endpoint is probed."""
    timeout: Duration = 3.0
    """How long one probe may take in all."""
    down_after: Annotated[int, Field(ge=1, le=100)] = 3
    """Failures in a row that make an endpoint DOWN."""
    up_after: Annotated[int, Field(ge=1, le=100)] = 2
    """Successes in a row that make it UP again."""
    slow: Duration = 2.0
    """A health answer slower than this makes an endpoint BUSY."""
    queue_limit: Annotated[int, Field(ge=0, le=100_000)] = 8
    """More requests waiting than this make an endpoint BUSY."""
    stalled_after: Duration | None = None
    """How long an endpoint may have work of which nothing moves before it is STALLED; if nothing is said until the
    third look in a row."""


class Ssh(_Table):
    """How a node is reached by SSH; without it only the machine tierdeck runs on is touched."""

    user: str | None = None
    """The user on the node; your own name if left out."""
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    """The port of its SSH server."""
    key: str | None = None
    """A private key file; else the agent and the usual ones of ~/.ssh."""
    known_hosts: str | None = None
    """The file of known host keys; else ~/.ssh/known_hosts. An unknown key is always refused."""
    password: Reference | None = None
    """A reference to the password, where keys cannot be had."""


class Docker(_Table):
    """Where a node's Docker Engine listens, as seen from the node."""

    socket: str | None = None
    """Its unix socket; /var/run/docker.sock if nothing is said."""
    context: str | None = None
    """A context of the node's docker command, such as "desktop", instead of a socket."""
    restart: str | None = None
    """The command that restarts it, as the node's shell reads it; if nothing is said the usual one of its system."""


class Rdp(_Table):
    """A desktop login that wakes Docker Desktop."""

    user: str
    """The Windows user."""
    password: Reference
    """A reference to the password."""
    port: Annotated[int, Field(ge=1, le=65535)] = 3389
    """The port of the desktop service."""


class Wake(_Table):
    """How a sleeping node is woken."""

    mac: Mac | None = None
    """The hardware address for a Wake-on-LAN packet."""
    via: str | None = None
    """A node of the same LAN that sends the packet."""
    command: str | None = None
    """A command that wakes it instead."""
    rdp: Rdp | None = None
    """A desktop login, where SSH or Docker only come with one."""


class Queue(_Table):
    """The order in which a node's GPU containers start, one after the other."""

    order: tuple[str, ...] = ()
    """Container names, first to start first."""
    gap: Pause = 5.0
    """The pause after one is ready and before the next begins."""
    ready_timeout: Duration = 180.0
    """How long one may go without any progress before the queue halts."""
    hard_timeout: Duration = 3600.0
    """How long one may take in all."""


class Recover(_Table):
    """What may be done for a node without a person."""

    auto: Rung = "containers"
    """The highest rung that is climbed unattended."""
    max_recoveries_per_hour: Annotated[int, Field(ge=1, le=60)] = 3
    """How often in an hour."""


class Node(_Table):
    """A machine."""

    name: Name
    """The node's name, used everywhere."""
    address: str
    """Its address or host name on your network."""
    os: Literal["linux", "windows", "macos"] = "linux"
    """Its operating system."""
    ssh: Ssh | None = None
    """How it is reached by SSH."""
    gpus: Literal["nvidia", "amd", "apple", "none"] = "none"
    """Whose GPUs it has, and so how they are read."""
    vram: tuple[Mib, ...] = ()
    """Memory of each GPU, where it cannot be read."""
    docker: Docker | Literal[False] | None = None
    """Where its Docker Engine listens; false where there is none."""
    sudo: Reference | None = None
    """A reference to the password that sudo asks for there; it goes to sudo's standard input."""
    wake: Wake | None = None
    """How it is woken."""
    queue: Queue = Queue()
    """The start queue of its GPU containers."""
    recover: Literal["manual"] | Recover = "manual"
    """"manual", or { auto = RUNG }."""


class Tier(_Table):
    """A group of endpoints that are judged together."""

    name: Name
    """The tier's name, such as LOCAL, REMOTE, NAS, GATEWAY."""


class Endpoint(_Table):
    """An address at which an engine answers."""

    name: Name
    """The endpoint's name, such as remote/mark-i."""
    tier: str
    """The tier it belongs to."""
    node: str | None = None
    """The node it runs on; left out for a service elsewhere."""
    engine: Literal["ollama", "llama.cpp", "vllm", "litellm", "lmstudio", "sglang", "openai", "http"]
    """What answers there."""
    url: Url
    """Its address, without a route; `localhost` means the endpoint's node."""
    container: str | None = None
    """The container it runs in."""
    service: Service | None = None
    """The native service it runs as: systemd:ollama, launchd:LABEL, windows:NAME."""
    interval: Duration | None = None
    """How often it is probed, if not as [defaults] says."""
    timeout: Duration | None = None
    """How long one probe may take, if not as [defaults] says."""
    slow: Duration | None = None
    """When an answer counts as slow, if not as [defaults] says."""
    queue_limit: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """How many requests may wait, if not as [defaults] says."""
    stalled_after: Duration | None = None
    """How long it may have work without moving, if not as [defaults] says; long prompts on a slow CPU need more."""
    canary: Duration | None = None
    """How often one token is asked for while it is idle, of a model already loaded; never if nothing is said."""
    api_key: Reference | None = None
    """A reference to its API key."""
    metrics_url: Url | None = None
    """Where its metrics are, if not at the engine's own address."""
    via: Literal["ssh"] | None = None
    """"ssh" probes through the node's SSH connection, where a firewall or a loopback bind closes the direct way."""
    tasks: tuple[Task, ...] = ()
    """The tasks it serves; chat if nothing is said (a plain http endpoint serves none)."""
    model: str | None = None
    """The model asked for in prompts, if not the first it names; its absence there is a CONFIG fault."""
    on_demand: bool = False
    """Started when wanted: while stopped on purpose it is OFF, not DOWN."""

    @property
    def serves(self) -> tuple[str, ...]:
        """The tasks it serves; without a word in the inventory an engine serves chat, a plain HTTP service nothing."""
        if self.tasks:
            return self.tasks
        return () if self.engine == "http" else ("chat",)


class Check(_Table):
    """What else deserves a lamp: a web page, a port, a command, the age of a backup, a folder that is kept in sync."""

    name: Name
    """The check's name, such as nas/backup."""
    tier: str
    """The tier it belongs to."""
    kind: Literal["http", "tcp", "command", "age", "syncthing"]
    """What is looked at: http and syncthing need `url`, tcp `address`, command `command`, age `path` and `limit`,
    syncthing `folder` besides."""
    node: str | None = None
    """The node it is about, on which a command is run and files are looked at; without one, here."""
    url: Url | None = None
    """http: the page, well with any 2xx. syncthing: the address of its web interface. `localhost` means the node."""
    address: Address | None = None
    """tcp: HOST:PORT that must accept connections. `localhost` means the node."""
    command: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """command: the program and its arguments, run without a shell at every turn; well with exit code 0."""
    path: str | None = None
    """age: a file, or a folder whose newest entry counts; names that begin with a dot do not."""
    limit: Age | None = None
    """age: how old it may be."""
    folder: str | None = None
    """syncthing: the id of the folder that must be in sync."""
    api_key: Reference | None = None
    """A reference to the API key (syncthing: of its web interface)."""
    via: Literal["ssh"] | None = None
    """"ssh" asks a url through the node's SSH connection."""
    interval: Duration | None = None
    """How often it is looked at; as [defaults] says for http and tcp, else every minute."""
    timeout: Duration | None = None
    """How long one look may take, if not as [defaults] says."""

    @property
    def words(self) -> str:
        """What it looks at, in one line."""
        return self.url or {
            "tcp": f"tcp://{self.address}",
            "command": f"command: {' '.join(self.command)}",
            "age": f"age: {self.path}",
        }.get(self.kind, self.kind)

    @cached_property
    def lamp(self) -> Endpoint:
        """The check as an endpoint that serves no prompts, so that it is judged and drawn like one."""
        slow = self.kind in ("command", "age", "syncthing")
        return Endpoint.model_construct(
            name=self.name, tier=self.tier, node=self.node, engine="http", url=self.words, via=self.via,
            api_key=self.api_key, interval=self.interval or (60.0 if slow else None), timeout=self.timeout,
        )  # fmt: skip


class Model(_Table):
    """A model that the planner and deployment should know of."""

    name: Name
    """The model's name."""
    file: str
    """Where its file lies: a path, volume:NAME/PATH, ssh:NODE:PATH or an address."""
    context: Annotated[int, Field(gt=0)] | None = None
    """Its context in tokens."""
    gpu_layers: Annotated[int, Field(ge=0)] | None = None
    """How many of its layers go to the GPU."""
    on_demand: bool = False
    """Loaded when asked for, not always."""


class Gateway(_Table):
    """The LiteLLM proxy in front."""

    endpoint: str
    """The endpoint it answers at."""
    config: str | None = None
    """Where its configuration lies: a path or ssh:NODE:PATH."""


class Alerts(_Table):
    """Whom `tierdeck watch` tells of changes, and when."""

    to: tuple[Reference, ...] = ()
    """References to Apprise addresses (Discord, ntfy and a hundred more); each address is a secret."""
    group: Pause = 10.0
    """Changes that follow each other within this time are one message, so that a dead node is one."""
    quiet: Quiet | None = None
    """Hours, such as "23:00-07:00", in which only what is DOWN is told; the rest waits for their end."""
    heartbeat: Heartbeat | None = None
    """An address, or a reference to one, that is asked (GET) for as long as all is well."""
    heartbeat_every: Duration = 60.0
    """How often it is asked."""


class Inventory(_Table):
    """A whole cluster, as cluster.toml and cluster.d say it is."""

    version: Literal[1]
    """The version of this file's format: 1."""
    name: Name
    """The cluster's name, shown in the header."""
    lock_host: str | None = None
    """The node that keeps the lease while another is unreachable."""
    defaults: Defaults = Defaults()
    """Cadence and limits of all endpoints."""
    nodes: tuple[Node, ...] = ()
    """The machines."""
    tiers: tuple[Tier, ...] = ()
    """The tiers, in the order in which they are shown."""
    endpoints: tuple[Endpoint, ...] = ()
    """The endpoints, in the order in which they are shown and preferred."""
    checks: tuple[Check, ...] = ()
    """What else deserves a lamp, shown after the endpoints of its tier."""
    models: tuple[Model, ...] = ()
    """The models."""
    router: dict[Task, tuple[str, ...]] = {}
    """For each task the endpoints to ask, the preferred first."""
    gateway: Gateway | None = None
    """The LiteLLM proxy in front."""
    alerts: Alerts = Alerts()
    """Whom `tierdeck watch` tells of changes."""

    @cached_property
    def node_named(self) -> dict[str, Node]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def lamps(self) -> tuple[Endpoint, ...]:
        """The endpoints, and after them the checks as such: all that has a verdict."""
        return (*self.endpoints, *(check.lamp for check in self.checks))

    @cached_property
    def check_named(self) -> dict[str, Check]:
        """The checks by name."""
        return {check.name: check for check in self.checks}

    @cached_property
    def gpu_users(self) -> dict[str, tuple[str, ...]]:
        """For each node with GPUs the endpoints on it."""
        return {
            node.name: tuple(e.name for e in self.endpoints if e.node == node.name)
            for node in self.nodes
            if node.gpus != "none"
        }

    def kind_of(self, lamp: Endpoint) -> str:
        """What it is: the engine of an endpoint, the kind of a check."""
        check = self.check_named.get(lamp.name)
        return check.kind if check else lamp.engine

    @cached_property
    def endpoint_named(self) -> dict[str, Endpoint]:
        """All that has a verdict, by name."""
        return {endpoint.name: endpoint for endpoint in self.lamps}

    @cached_property
    def endpoints_of(self) -> dict[str, tuple[Endpoint, ...]]:
        """All that has a verdict in each tier, by the tier's name."""
        return {t.name: tuple(e for e in self.lamps if e.tier == t.name) for t in self.tiers}

    def chain(self, task: str) -> tuple[str, ...]:
        """The endpoints that serve `task`, the preferred first: the router's list, else all that name the task."""
        if task in self.router:
            return self.router[task]
        return tuple(e.name for e in self.endpoints if task in e.serves)

    @property
    def assigned_tasks(self) -> tuple[str, ...]:
        """The tasks that at least one endpoint is to serve."""
        return tuple(task for task in TASKS if self.chain(task))

    def runs_containers(self, node: Node) -> bool:
        """Whether a node's Docker is worth asking: the inventory speaks of it, of a queue or of a container there."""
        named = any(e.container for e in self.endpoints if e.node == node.name)
        return node.docker is not False and (named or bool(node.queue.order) or node.docker is not None)

    def with_queue_order(self, node: str, order: Sequence[str]) -> Inventory:
        """The same cluster with another start order for one node, as a person arranged it for one run."""
        nodes = tuple(
            n.model_copy(update={"queue": n.queue.model_copy(update={"order": tuple(order)})}) if n.name == node else n
            for n in self.nodes
        )
        told = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_construct(**told | {"nodes": nodes})  # a copy would keep what was cached of the old one

    def interval(self, endpoint: Endpoint) -> float:
        """Seconds between two probes of `endpoint`."""
        return endpoint.interval or self.defaults.interval

    def timeout(self, endpoint: Endpoint) -> float:
        """Seconds one probe of `endpoint` may take."""
        return endpoint.timeout or self.defaults.timeout

    def queue_limit(self, endpoint: Endpoint) -> int:
        """Requests waiting beyond which `endpoint` is BUSY."""
        return self.defaults.queue_limit if endpoint.queue_limit is None else endpoint.queue_limit

    def stalled_after(self, endpoint: Endpoint) -> float:
        """Seconds without any movement after which work at `endpoint` is STALLED: by default at the third look."""
        return endpoint.stalled_after or self.defaults.stalled_after or 1.5 * self.interval(endpoint)

    def slow(self, endpoint: Endpoint) -> float:
        """Seconds over which an answer of `endpoint` counts as slow."""
        return endpoint.slow or self.defaults.slow

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str, str, tuple[str, ...]]]:
        """What does not fit together, as (place, what is wrong, the wrong word, the valid words)."""
        yield from _duplicates("nodes", self.nodes)
        yield from _duplicates("tiers", self.tiers)
        yield from _duplicates("endpoints", self.endpoints)
        yield from _duplicates("checks", self.checks, {endpoint.name for endpoint in self.endpoints})
        yield from _duplicates("models", self.models)
        nodes, endpoints = tuple(self.node_named), tuple(e.name for e in self.endpoints)
        tiers = tuple(tier.name for tier in self.tiers)
        for i, endpoint in enumerate(self.endpoints):
            if endpoint.tier not in tiers:
                yield ("endpoints", i, "tier"), "unknown tier", endpoint.tier, tiers
            if endpoint.node is not None and endpoint.node not in nodes:
                yield ("endpoints", i, "node"), "unknown node", endpoint.node, nodes
            if endpoint.via == "ssh" and endpoint.node is None:
                yield (
                    ("endpoints", i, "via"),
                    'via = "ssh" needs the node to go through; say node = ',
                    "ssh",
                    nodes,
                )
            if endpoint.container and endpoint.service:
                yield (
                    ("endpoints", i, "service"),
                    "either container or service, not both",
                    endpoint.service,
                    (),
                )
        for i, check in enumerate(self.checks):
            yield from _check_mistakes(i, check, tiers, nodes)
        for i, node in enumerate(self.nodes):
            if node.wake and node.wake.via is not None and node.wake.via not in nodes:
                yield ("nodes", i, "wake", "via"), "unknown node", node.wake.via, nodes
        if self.lock_host is not None and self.lock_host not in nodes:
            yield ("lock_host",), "unknown node", self.lock_host, nodes
        for task, names in self.router.items():
            for name in names:
                if name not in endpoints:
                    yield ("router", task), "unknown endpoint", name, endpoints
        if self.gateway and self.gateway.endpoint not in endpoints:
            yield ("gateway", "endpoint"), "unknown endpoint", self.gateway.endpoint, endpoints


_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "http": ("url",),
    "tcp": ("address",),
    "command": ("command",),
    "age": ("path", "limit"),
    "syncthing": ("url", "folder"),
}
_OF_SOME: Final = ("url", "address", "command", "path", "limit", "folder", "api_key", "via")


def _check_mistakes(
    i: int, check: Check, tiers: tuple[str, ...], nodes: tuple[str, ...]
) -> Iterator[tuple[tuple[str | int, ...], str, str, tuple[str, ...]]]:
    if check.tier not in tiers:
        yield ("checks", i, "tier"), "unknown tier", check.tier, tiers
    if check.node is not None and check.node not in nodes:
        yield ("checks", i, "node"), "unknown node", check.node, nodes
    needed = _NEEDS[check.kind]
    known = (*needed, *(("api_key", "via") if "url" in needed else ()))
    for key in needed:
        if not getattr(check, key):
            yield ("checks", i, "kind"), f"a check of this kind needs {key} =", check.kind, ()
    for key in _OF_SOME:
        if key in check.model_fields_set and key not in known:
            yield ("checks", i, key), f"a check of kind {check.kind} has no such key", key, known
    if check.via and check.node is None:
        yield ("checks", i, "via"), 'via = "ssh" needs the node to go through; say node = ', "ssh", nodes


def _duplicates(
    table: str, items: tuple[Node | Tier | Endpoint | Check | Model, ...], taken: Iterable[str] = ()
) -> Iterator[tuple[tuple[str | int, ...], str, str, tuple[str, ...]]]:
    seen = set(taken)
    for i, item in enumerate(items):
        if item.name in seen:
            yield (table, i, "name"), "this name is taken already", item.name, ()
        seen.add(item.name)
