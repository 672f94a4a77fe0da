"""The tables of cluster.toml: what each key means. Pydantic stands at this edge only.

The attribute docstrings here are the manual: `tierdeck schema` prints them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from backends.cluster.engines import EngineName
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
    Service,
    Url,
)
from backends.cluster.words import Rung, Task


class Table(BaseModel):
    """What all tables share: no unknown key, no change, no value repeated in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Defaults(Table):
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


class Ssh(Table):
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


class Docker(Table):
    """Where a node's Docker Engine listens, as seen from the node."""

    socket: str | None = None
    """Its unix socket; /var/run/docker.sock if nothing is said."""
    context: str | None = None
    """A context of the node's docker command, such as "desktop", instead of a socket."""
    restart: str | None = None
    """The command that restarts it, as the node's shell reads it; if nothing is said the usual one of its system."""


class Rdp(Table):
    """A desktop login that wakes Docker Desktop."""

    user: str
    """The Windows user."""
    password: Reference
    """A reference to the password."""
    port: Annotated[int, Field(ge=1, le=65535)] = 3389
    """The port of the desktop service."""


class Wake(Table):
    """How a sleeping node is woken."""

    mac: Mac | None = None
    """The hardware address for a Wake-on-LAN packet."""
    via: str | None = None
    """A node of the same LAN that sends the packet."""
    command: str | None = None
    """A command that wakes it instead."""
    rdp: Rdp | None = None
    """A desktop login, where SSH or Docker only come with one."""


class Cluster(Table):
    """A Kubernetes cluster, for nodes whose models run there; the certificate of its API is always verified."""

    name: Name
    """The cluster's name, used by its nodes."""
    kubeconfig: str | None = None
    """A kubeconfig file; if nothing is said KUBECONFIG, else ~/.kube/config, else the service account of the pod that
    tierdeck runs in."""
    context: str | None = None
    """A context of that file; its current one if nothing is said."""
    namespaces: tuple[Name, ...] = ()
    """The namespaces to look into; all if nothing is said, which needs the right to list all."""
    token: Reference | None = None
    """A reference to a token, instead of the file's login."""
    client_certificate: Reference | None = None
    """A reference to a client certificate (PEM), instead of the file's login."""
    client_key: Reference | None = None
    """A reference to that certificate's key (PEM)."""
    via: str | None = None
    """A node whose SSH connection leads to the API, where only that node sees it."""


class Kubernetes(Table):
    """The node of a Kubernetes cluster that a machine is."""

    cluster: str
    """The cluster, a name of [[clusters]]."""
    node: str | None = None
    """Its name in the API; the node's own if nothing is said."""


def _cluster_alone(value: object) -> object:
    return {"cluster": value} if isinstance(value, str) else value


class Queue(Table):
    """The order in which a node's GPU containers start, one after the other."""

    order: tuple[str, ...] = ()
    """Container names, first to start first."""
    gap: Pause = 5.0
    """The pause after one is ready and before the next begins."""
    ready_timeout: Duration = 180.0
    """How long one may go without any progress before the queue halts."""
    hard_timeout: Duration = 3600.0
    """How long one may take in all."""


class Recover(Table):
    """What may be done for a node without a person."""

    auto: Rung = "containers"
    """The highest rung that is climbed unattended."""
    max_recoveries_per_hour: Annotated[int, Field(ge=1, le=60)] = 3
    """How often in an hour."""


class Node(Table):
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
    kubernetes: Annotated[
        Kubernetes | None, BeforeValidator(_cluster_alone, json_schema_input_type=str | Kubernetes | None)
    ] = None
    """The Kubernetes cluster it belongs to: a name of [[clusters]], or { cluster, node } where the API calls it
    otherwise."""
    sudo: Reference | None = None
    """A reference to the password that sudo asks for there; it goes to sudo's standard input."""
    wake: Wake | None = None
    """How it is woken."""
    reboot: str | None = None
    """The command that reboots it, as the node's shell reads it; if nothing is said the usual one of its system."""
    queue: Queue = Queue()
    """The start queue of its GPU containers."""
    recover: Literal["manual"] | Recover = "manual"
    """"manual", or { auto = RUNG }."""

    @property
    def may_have_docker(self) -> bool:
        """Whether a Docker Engine may be there: a node of a Kubernetes cluster has one only if that is said."""
        return self.docker is not False if self.kubernetes is None else isinstance(self.docker, Docker)

    @property
    def declares(self) -> bool:
        """Whether things are declared to what runs the node, not made one by one: a cluster's node without Docker."""
        return self.kubernetes is not None and not self.may_have_docker


class Tier(Table):
    """A group of endpoints that are judged together."""

    name: Name
    """The tier's name, such as LOCAL, REMOTE, NAS, GATEWAY."""


class Endpoint(Table):
    """An address at which an engine answers."""

    name: Name
    """The endpoint's name, such as remote/mark-i."""
    tier: str
    """The tier it belongs to."""
    node: str | None = None
    """The node it runs on; left out for a service elsewhere."""
    engine: EngineName
    """What answers there."""
    url: Url
    """Its address, without a route; `localhost` means the endpoint's node."""
    container: str | None = None
    """The container it runs in; on a Kubernetes node the Deployment, as NAMESPACE/NAME (a StatefulSet as
    NAMESPACE/statefulset/NAME)."""
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
    via: Literal["ssh", "kubernetes"] | None = None
    """"ssh" probes through the node's SSH connection, where a firewall or a loopback bind closes the direct way;
    "kubernetes" through the service proxy of the node's API, and then the url names a Service: http://NAME.NAMESPACE:PORT."""
    tasks: tuple[Task, ...] = ()
    """The tasks it serves; chat if nothing is said (a plain http endpoint serves none)."""
    model: str | None = None
    """The model asked for in prompts, if not the first it names; its absence there is a CONFIG fault."""
    on_demand: bool = False
    """Started when wanted: while stopped on purpose it is OFF, not DOWN."""
    idle: Duration | None = None
    """on_demand: `tierdeck watch` stops it once it has had no work for so long; never if nothing is said."""

    @property
    def serves(self) -> tuple[str, ...]:
        """The tasks it serves; without a word in the inventory an engine serves chat, a plain HTTP service nothing."""
        if self.tasks:
            return self.tasks
        return () if self.engine == "http" else ("chat",)


class Check(Table):
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


class Model(Table):
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


class Gateway(Table):
    """The LiteLLM proxy in front."""

    endpoint: str
    """The endpoint it answers at."""
    config: str | None = None
    """Where its configuration lies: a path of this machine, ssh:NODE:PATH, or volume:NAME/PATH on its node."""


class Alerts(Table):
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
