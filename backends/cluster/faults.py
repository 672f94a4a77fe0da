"""What is wrong with a node: checks made side by side, and the one fault they add up to. Pure rules.

A fault is named by what a person would do about it; the recovery ladder is planned from it (DESIGN, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

CheckState = Literal["ok", "bad", "unknown"]


class Fault(StrEnum):
    """What is wrong with a node."""

    NONE = "none"
    NO_WAY_OUT = "no_way_out"
    NAME = "name"
    SPLIT = "split"
    HOST_KEY = "host_key"
    LOGIN = "login"
    ASLEEP = "asleep"
    DESKTOP_ONLY = "desktop_only"
    SSH_DOWN = "ssh_down"
    DRIVER_HUNG = "driver_hung"
    GPU_OFF_BUS = "gpu_off_bus"
    NOBODY_LOGGED_IN = "nobody_logged_in"
    DOCKER_DOWN = "docker_down"
    GPU_LOST = "gpu_lost"
    ON_CPU = "on_cpu"
    SERVICE_DOWN = "service_down"
    CONTAINERS_DOWN = "containers_down"
    ENGINE_STUCK = "engine_stuck"
    CLOSED = "closed"
    MISCONFIGURED = "misconfigured"
    UNTOUCHABLE = "untouchable"
    API_DOWN = "api_down"
    NOT_READY = "not_ready"
    CORDONED = "cordoned"


WORDS: Final[Mapping[Fault, tuple[str, str]]] = {
    Fault.NONE: ("nothing is wrong", ""),
    Fault.NO_WAY_OUT: ("this machine's own way out is gone", "Mend this machine's network first: ip route, its cable."),
    Fault.NAME: ("its address is not found", "Correct the node's address in cluster.toml, or mend DNS."),
    Fault.SPLIT: (
        "the network is split: others reach it, this machine does not",
        "Nothing is to be recovered there. Look at the network between, or work from a node that reaches it.",
    ),
    Fault.HOST_KEY: ("its SSH host key is not the known one", "A person must compare it; nothing is sent there."),
    Fault.LOGIN: ("it denies the SSH login", "Correct user and key in cluster.toml, or put the key there."),
    Fault.ASLEEP: ("asleep or off: nothing answers", ""),
    Fault.DESKTOP_ONLY: ("SSH is silent, its desktop service answers", ""),
    Fault.SSH_DOWN: ("SSH does not answer, its engines do", "Work goes on; start sshd there when you can."),
    Fault.DRIVER_HUNG: (
        "its GPU driver hangs",
        "Reboot it: tierdeck reboot NODE. No restart cures it.",
    ),
    Fault.GPU_OFF_BUS: (
        "a GPU fell off the bus",
        "Reboot it: tierdeck reboot NODE; or power it off and on.",
    ),
    Fault.NOBODY_LOGGED_IN: ("nobody is logged in, so Docker Desktop does not run", ""),
    Fault.DOCKER_DOWN: ("SSH answers, Docker does not", ""),
    Fault.GPU_LOST: ("a container has lost its GPU", ""),
    Fault.ON_CPU: ("an engine works on the CPU", ""),
    Fault.SERVICE_DOWN: ("a native service is down", ""),
    Fault.CONTAINERS_DOWN: ("Docker answers, containers are down", ""),
    Fault.ENGINE_STUCK: ("a container runs, and its engine does not answer", ""),
    Fault.CLOSED: (
        "closed from here, open on the node",
        'Open its port in the firewall, let it listen on all addresses, or use via = "ssh".',
    ),
    Fault.MISCONFIGURED: ("an endpoint is not what cluster.toml says", "No restart cures it: see its evidence."),
    Fault.API_DOWN: ("its Kubernetes API does not answer as it should", "See its evidence; its pods run on meanwhile."),
    Fault.NOT_READY: (
        "Kubernetes calls it NotReady, and the machine answers",
        "Look at its kubelet there: journalctl -u k3s -u k3s-agent -u kubelet; restart that.",
    ),
    Fault.CORDONED: (
        "it is cordoned: nothing new is placed there",
        "If nobody works on it any more: tierdeck recover NODE --from uncordon",
    ),
    Fault.UNTOUCHABLE: ("there is no way to touch it", "Give it ssh in cluster.toml, or wake = { ... }."),
}
"""For each fault a sentence, and what a person is to do where no rung helps."""

HOLDS: Final = frozenset(
    {Fault.NO_WAY_OUT, Fault.NAME, Fault.SPLIT, Fault.HOST_KEY, Fault.LOGIN, Fault.SSH_DOWN, Fault.DRIVER_HUNG,
     Fault.GPU_OFF_BUS, Fault.CLOSED, Fault.MISCONFIGURED, Fault.UNTOUCHABLE, Fault.API_DOWN,
     Fault.NOT_READY, Fault.CORDONED}
)  # fmt: skip
"""Faults that no rung of the ladder cures."""


@dataclass(frozen=True, slots=True)
class Check:
    """One look: `state` with `words` as its evidence, `kind` to tell failures apart, `seconds` it took."""

    name: str
    state: CheckState
    words: str
    kind: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """One container or service of the node that is to serve: `name` as cluster.toml has it, what it is, and how."""

    name: str
    native: bool
    running: bool
    trouble: str = ""
    """Why it does not serve; "" where it does, or loads, or nobody asks it."""
    kind: Literal["", "down", "lost_gpu", "on_cpu", "config", "closed"] = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a node: its checks by name, and its containers and services (None where not to be had)."""

    checks: Mapping[str, Check]
    parts: tuple[Part, ...] | None = None
    windows: bool = False

    def state(self, name: str) -> str:
        """The state of a check; "" where it was not made."""
        return self.checks[name].state if name in self.checks else ""

    def kind(self, name: str) -> str:
        """How a check failed; "" where it did not, or was not made."""
        return self.checks[name].kind if self.state(name) == "bad" else ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The fault of a node, the containers and services it is about, and the evidence."""

    node: str
    fault: Fault
    parts: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def sentence(self) -> str:
        """The fault in words, with what it is about."""
        about = f": {', '.join(self.parts)}" if self.parts else ""
        return WORDS[self.fault][0] + about

    @property
    def advice(self) -> str:
        """What a person is to do, where no rung helps."""
        return WORDS[self.fault][1].replace("NODE", self.node)


def diagnose(node: str, seen: Seen) -> Diagnosis:
    """The one fault that `seen` adds up to; the first that explains the others."""
    fault, parts = next(_faults(seen))
    return Diagnosis(node, fault, tuple(parts), tuple(seen.checks.values()))


def _faults(seen: Seen) -> Iterator[tuple[Fault, Sequence[str]]]:
    if seen.state("way out") == "bad":
        yield Fault.NO_WAY_OUT, ()
    if seen.state("name") == "bad":
        yield Fault.NAME, ()
    if seen.state("ssh") == "bad":
        yield _without_ssh(seen), ()
    if seen.state("driver") == "bad" and (fault := _DRIVER.get(seen.kind("driver"))):
        yield fault, ()
    if seen.state("docker") == "bad":
        alone = seen.windows and seen.kind("desktop session") == "nobody"
        yield (Fault.NOBODY_LOGGED_IN if alone else Fault.DOCKER_DOWN), ()
    if seen.kind("kubernetes") == "not_ready":
        yield (Fault.NOT_READY if "ssh" in seen.checks else Fault.ASLEEP), ()
    if seen.kind("kubernetes") == "cordoned":
        yield Fault.CORDONED, ()
    if seen.state("kubernetes") == "bad":
        yield Fault.API_DOWN, ()
    yield from _by_part(seen.parts or ())
    if "ssh" not in seen.checks and "docker" not in seen.checks and seen.state("engines") == "bad":
        yield Fault.UNTOUCHABLE, ()
    yield Fault.NONE, ()


_DRIVER: Final = {"hung": Fault.DRIVER_HUNG, "off_bus": Fault.GPU_OFF_BUS}


def _without_ssh(seen: Seen) -> Fault:
    named = {"host_key": Fault.HOST_KEY, "denied": Fault.LOGIN}.get(seen.kind("ssh"))
    if named is not None:
        return named
    if "ok" in (seen.state("engines"), seen.state("kubernetes")):
        return Fault.SSH_DOWN
    if seen.state("from elsewhere") == "ok":
        return Fault.SPLIT
    return Fault.DESKTOP_ONLY if seen.state("desktop port") == "ok" else Fault.ASLEEP


def _by_part(parts: Sequence[Part]) -> Iterator[tuple[Fault, Sequence[str]]]:
    def named(*, kind: str, native: bool | None = None, running: bool | None = None) -> list[str]:
        return [p.name for p in parts if p.kind == kind and native in (None, p.native) and running in (None, p.running)]

    for fault, names in (
        (Fault.SERVICE_DOWN, named(kind="down", native=True)),
        (Fault.CONTAINERS_DOWN, named(kind="down", native=False, running=False)),
        (Fault.ENGINE_STUCK, named(kind="down", native=False, running=True)),
        (Fault.GPU_LOST, named(kind="lost_gpu")),
        (Fault.ON_CPU, named(kind="on_cpu")),
        (Fault.CLOSED, named(kind="closed")),
        (Fault.MISCONFIGURED, named(kind="config")),
    ):
        if names:
            yield fault, names
