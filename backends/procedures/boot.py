"""Takes a node's GPU containers out of Docker's hands at boot, and gives them to the start queue.

First what will start the queue is installed and verified, only then Docker's restart policies go; never before.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, runtime_checkable

from pydantic import JsonValue, TypeAdapter, ValidationError

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Node
from backends.errors import ProcedureError, RuntimeFailure
from backends.exports.boot import Starter
from backends.procedures import boot_machine as machines
from backends.procedures.boot_machine import Install, Machine
from backends.procedures.context import residence
from backends.procedures.plan import Danger, Plan, Step
from backends.procedures.runner import Report, StepKind
from backends.procedures.startup import plan_queue
from backends.reach.runtime import Runtime, Shell

T = TypeVar("T")

NO: Final = "no"
"""The restart policy under which Docker starts nothing by itself."""

_LOCKED: Final = ("env:", "prompt:", "keyring:", "op:", "pass:")
"""References that need somebody's session to be resolved."""


@runtime_checkable
class RestartPolicies(Protocol):
    """A runtime that starts things by itself; policies as Docker's command line writes them ("on-failure:3")."""

    async def restart_policy(self, name: str) -> str:
        """The policy of one workload, freshly asked; RuntimeFailure with status 404 where there is none."""
        ...

    async def update_restart(self, name: str, policy: str) -> None:
        """Give it another; nothing is started or stopped by that."""
        ...

    async def labels(self, name: str) -> Mapping[str, str]:
        """Its labels."""
        ...


class Asked(Protocol):
    """What a plan's maker asks of the outside."""

    @property
    def shell(self) -> Callable[[str], Shell]:
        """The shell of a node; SshError where there is no way to it."""
        ...

    @property
    def runtime(self) -> Callable[[str, str], Awaitable[Runtime]]:
        """What drives the workloads of one kind on a node."""
        ...


class Outside(Asked, Protocol):
    """What these steps ask of the outside, as `Context` has it."""

    @property
    def confirm(self) -> Callable[[], Awaitable[None]]:
        """Whether the node is still ours, asked right before every change; ProcedureError where it is not."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """A container's restart policy, and where Compose would set it again."""

    name: str
    compose: str = ""


@dataclass(frozen=True, slots=True)
class SetRestart:
    """What the step is told: the policy a container is to have, and the `old` one; only behind a starter in place."""

    node: str
    name: str
    old: str
    starter: Install
    policy: str = NO

    def to_json(self) -> dict[str, JsonValue]:
        """As a step's arguments."""
        told: dict[str, JsonValue] = {"node": self.node, "name": self.name, "old": self.old, "policy": self.policy}
        return told | {"starter": self.starter.to_json()}


# -- the steps ---------------------------------------------------------------------------------------------------------


class InstallStarter:
    """Installs what starts the queue at boot: tried dry first, then written, then read back and checked."""

    def __init__(self, step: Step, context: Outside) -> None:
        self._told = _parsed(Install, step)
        self._context = context

    async def check(self) -> str:
        """In place, enabled, and a dry run of it succeeds."""
        if await machines.fault(self._shell, self._told):
            return ""
        await machines.tried(self._shell, self._told)
        return "already installed, and a dry run of it succeeds"

    async def apply(self, report: Report) -> None:
        """Nothing is written that does not work."""
        report({"text": f"trying it dry on {self._told.node}"})
        await machines.tried(self._shell, self._told)
        report({"text": f"writing {self._told.root}{self._told.file}"})
        await self._context.confirm()
        await machines.write(self._shell, self._told)

    async def verify(self, report: Report) -> str:
        """Ask the machine anew."""
        if why := await machines.fault(self._shell, self._told):
            raise ProcedureError(f"The starter of {self._told.node} would not run: {why}.")
        return f"{self._told.name} is installed and enabled: from the next {_moment(self._told)} on it starts the queue"

    async def undo(self) -> None:
        """Remove it, or put back what was there."""
        await self._context.confirm()
        await machines.take_back(self._shell, self._told)

    @property
    def _shell(self) -> Shell:
        return self._context.shell(self._told.node)


class SetRestartPolicy:
    """Changes one container's restart policy, if what is to start it instead is in place."""

    def __init__(self, step: Step, context: Outside) -> None:
        self._told = _parsed(SetRestart, step)
        self._context = context
        self._old = self._told.old

    async def check(self) -> str:
        """Already so."""
        return f"its restart policy is {NO} already" if await self._policy() == self._told.policy else ""

    async def apply(self, report: Report) -> None:
        """Look at the starter once more, since a person may have skipped its step."""
        told = self._told
        if why := await machines.fault(self._context.shell(told.node), told.starter):
            raise ProcedureError(
                f"{told.name} keeps its restart policy: nothing else would start it at boot ({why}).",
                f"Install the starter first: tierdeck queue boot {told.node}",
            )
        self._old = await self._policy()
        await self._context.confirm()
        await (await self._policies()).update_restart(told.name, told.policy)

    async def verify(self, report: Report) -> str:
        """Ask Docker anew."""
        policy = await self._policy()
        if policy != self._told.policy:
            raise ProcedureError(f"{self._told.name} still has the restart policy {policy}.", "Who sets it again?")
        return f"restart policy {policy}, was {self._old}"

    async def undo(self) -> None:
        """Give it its old policy back."""
        if await self._policy() != self._old:
            await self._context.confirm()
            await (await self._policies()).update_restart(self._told.name, self._old)

    async def _policies(self) -> RestartPolicies:
        return restarting(await self._context.runtime(self._told.node, "docker"))

    async def _policy(self) -> str:
        return await (await self._policies()).restart_policy(self._told.name)


BOOT_KINDS: Final[Mapping[str, Callable[[Step, Outside], StepKind]]] = {
    "install_starter": InstallStarter,
    "set_restart_policy": SetRestartPolicy,
}
"""The kinds of steps of a boot plan, for the registry."""


def _parsed(shape: type[T], step: Step) -> T:
    try:
        return TypeAdapter(shape).validate_python(dict(step.arguments))
    except ValidationError as error:
        raise ProcedureError(f'The step "{step.label}" cannot be read: {error.error_count()} mistakes.') from None


# -- the planner -------------------------------------------------------------------------------------------------------


def restarting(runtime: Runtime) -> RestartPolicies:
    """The runtime, if it has restart policies; RuntimeFailure where it has none."""
    if isinstance(runtime, RestartPolicies):
        return runtime
    raise RuntimeFailure(f"{runtime.kind} has no restart policies that could be changed.")


def compose_line(labels: Mapping[str, str]) -> str:
    """The line of a Compose file that decides a container's policy; "" where it is not of Compose."""
    project, service, files = (
        labels.get(f"com.docker.compose.{key}", "") for key in ("project", "service", "project.config_files")
    )
    return f"{files or 'its Compose file'} (project {project}), services: {service}: restart:" if service else ""


async def prepare_boot(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    node: str,
    asked: Asked,
    *,
    program: str = "",
    cluster: str = "",
) -> Plan:
    """Look at the machine and its containers, and plan; `program` and `cluster` where they are known better."""
    queued(inventory, snapshot, node)
    shell = asked.shell(node)
    machine = await machines.look(shell, inventory.node_named[node], program=program, cluster=cluster)
    told = install_of(inventory, node, machine)
    policies = {}
    for workload in _by_themselves(snapshot, node):
        runtime = restarting(await asked.runtime(node, workload.runtime))
        line = compose_line(await runtime.labels(workload.name))
        policies[workload.name] = Policy(await runtime.restart_policy(workload.name), line)
    installed = not await machines.fault(shell, told)
    return plan_boot(inventory, snapshot, node, machine, policies=policies, installed=installed)


def plan_boot(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    node: str,
    machine: Machine,
    *,
    policies: Mapping[str, Policy] | None = None,
    installed: bool = False,
) -> Plan:
    """What lets the start queue of `node`, and nothing else, start its GPU containers at boot.

    `policies` tells more of them than the snapshot does; `installed`: the starter is in place already.
    ProcedureError where no starter fits, nobody may write it, or there is nothing to queue.
    """
    names = queued(inventory, snapshot, node)
    told = install_of(inventory, node, machine)
    if told.sudo and machine.rights != "sudo" and not installed:
        raise ProcedureError(
            f"The starter of {node} cannot be written: {machine.user} is not root there, and sudo asks for a password.",
            f"Install it there by hand (tierdeck export boot-unit {node}), then try again.",
        )
    known = {w.name: Policy(w.restart_policy) for w in _by_themselves(snapshot, node)} | dict(policies or {})
    on_demand = (residence(e) for e in inventory.endpoints if e.node == node and e.on_demand)
    chosen = [name for name in dict.fromkeys((*names, *on_demand)) if name in known]
    return Plan(
        kind="boot",
        node=node,
        title=f"Boot of {node}: its queue" + (f", not Docker, starts {', '.join(chosen)}" if chosen else " is started"),
        steps=(_install(told), *(_set(told, name, known[name]) for name in chosen)),
        warnings=(
            *(
                f"{name} is started on demand: nothing starts it at boot any more."
                for name in chosen
                if name not in names
            ),
            *_left_alone(node, [name for name in known if name not in chosen]),
            *(f'Compose would undo it for {n}, say "no" there: {known[n].compose}' for n in chosen if known[n].compose),
            *_warnings(inventory, inventory.node_named[node], machine, told, installed=installed),
        ),
        targets=tuple(chosen),
    )


def queued(inventory: Inventory, snapshot: ClusterSnapshot, node: str) -> tuple[str, ...]:
    """What the start queue of `node` starts; ProcedureError where that is nothing, or not known."""
    return plan_queue(inventory, snapshot, node, restart=True).targets


def starter_for(inventory: Inventory, node: str, machine: Machine) -> Starter:
    """The starter of `node`; ProcedureError where none fits its machine."""
    services = any(e.service for e in inventory.endpoints if e.node == node)
    return machines.starter_of(inventory.node_named[node], machine, services=services)


def install_of(inventory: Inventory, node: str, machine: Machine) -> Install:
    """How the starter of `node` is installed there."""
    return Install.of(starter_for(inventory, node, machine), machine.rights)


def _by_themselves(snapshot: ClusterSnapshot, node: str) -> list[Workload]:
    """The GPU containers that Docker starts at boot, past the queue."""
    found = snapshot.nodes[node].workloads
    return [w for w in found if w.gpu and w.runtime == "docker" and w.restart_policy not in ("", NO)]


def _moment(told: Install) -> str:
    return "boot" if told.os == "linux" else "login"


def _install(told: Install) -> Step:
    verb = {"linux": "sudo -n: write and link" if told.sudo else "write and link", "macos": "write"}
    how = verb.get(told.os, "schtasks /Create /XML")
    return Step(
        "install_starter",
        f"install {told.name}, which starts the queue of {told.node} at {_moment(told)}",
        told.to_json(),
        time_limit=120.0,
        danger=Danger.CHANGES,
        command=f"{shlex.join(told.trial)}; {how} {told.root}{told.file}",
    )


def _set(told: Install, name: str, policy: Policy) -> Step:
    return Step(
        "set_restart_policy",
        f"{name}: restart policy {policy.name} -> {NO}",
        SetRestart(told.node, name, policy.name, told).to_json(),
        danger=Danger.CHANGES,
        command=f"docker update --restart={NO} {shlex.quote(name)}",
    )


def _left_alone(node: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"{', '.join(names)}: in no start queue, so the restart policy stays, and Docker starts it beside the queue. "
        f"Name it in queue.order of {node}, then plan this again."
    ]


def _warnings(inventory: Inventory, node: Node, machine: Machine, told: Install, *, installed: bool) -> list[str]:
    found = []
    if told.sudo and not installed:
        found.append(f"{machine.user} is not root on {node.name}: it is written with sudo -n.")
    if node.os == "linux":
        found.append(
            "systemd knows the starter from the next boot on (no daemon-reload: that can take the GPU away). "
            f"If Docker is restarted before: tierdeck queue run {node.name}"
        )
    else:
        found.append(
            "It runs at a login only. If Docker Desktop is restarted without one: tierdeck queue run " + node.name
        )
    desktop = node.wake.rdp.user if node.wake and node.wake.rdp else ""
    if node.os == "windows" and desktop and _account(desktop) != _account(machine.windows_user):
        found.append(f"It runs when {machine.windows_user} logs in; cluster.toml wakes {node.name} as {desktop}.")
    for endpoint in inventory.endpoints:
        if endpoint.node == node.name and endpoint.api_key and endpoint.api_key.startswith(_LOCKED):
            found.append(f"{endpoint.name}: {endpoint.api_key} may not be there at boot; without it the queue halts.")
    return found


def _account(name: str) -> str:
    """A Windows user without the domain."""
    return name.rpartition("\\")[2].lower()
