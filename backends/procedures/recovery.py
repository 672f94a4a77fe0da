"""Plans the recovery of a node from its diagnosis: the least invasive rung that can help first (DESIGN, section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from backends.cluster.faults import HOLDS, Diagnosis, Fault
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Node
from backends.cluster.words import RUNGS, Rung
from backends.errors import ProcedureError
from backends.procedures.plan import BlastRadius, Danger, Plan, Step
from backends.procedures.recreate import recreate_step
from backends.procedures.rung_words import docker_command
from backends.procedures.rungs import DOCKER_BACK, DOCKER_LIMIT, HOLD, WAKE_BACK
from backends.procedures.standdown import stand_down_step
from backends.procedures.startup import blast, plan_queue

SOON: Final = 90.0
"""Seconds for which Docker may take to come up by itself on a machine that was woken."""

_BYSTANDERS: Final = (
    "pihole", "adguard", "unbound", "bind", "dnsmasq", "coredns", "dns",
    "traefik", "caddy", "nginx", "haproxy", "proxy", "authelia", "authentik", "keycloak",
)  # fmt: skip
"""Words in the names of containers whose stop others feel first: DNS, proxies, logins."""


def plan_recovery(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    diagnosis: Diagnosis,
    *,
    start: Rung | None = None,
    highest: Rung = "rdp",
    unattended: bool = False,
) -> Plan:
    """What would bring `diagnosis.node` back, climbing no higher than `highest`, and from `start` on if that is given.

    ProcedureError where nothing is wrong, or where no rung helps: then it says what does.
    """
    node = inventory.node_named[diagnosis.node]
    if start is None:
        _refuse(diagnosis)
    first = start or _first(diagnosis, node)
    rungs = [r for r in RUNGS if RUNGS.index(first) <= RUNGS.index(r) <= RUNGS.index(highest)]
    if not rungs:
        raise ProcedureError(
            f"{node.name}: {diagnosis.sentence}; that is cured by the rung {first}, above {highest}.",
            f"Climb it yourself: tierdeck recover {node.name}",
        )
    if first in ("service", "containers"):
        return _restarted(inventory, snapshot, diagnosis, node)
    is_here = snapshot.here == node.name
    steps = [*_climb(node, first, rungs, is_here=is_here, unattended=unattended), *after(node)]
    if not _climbs(steps):
        raise ProcedureError(f"{node.name}: {diagnosis.sentence}.", _no_way(node, diagnosis))
    return Plan(
        kind="recovery",
        node=node.name,
        title=f"Recover {node.name}: {diagnosis.sentence}",
        steps=tuple(steps),
        blast=_blast(inventory, snapshot, node, steps),
        warnings=tuple(_warnings(inventory, node, diagnosis, steps, unattended=unattended)),
        why=evidence(diagnosis),
    )


def evidence(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What was seen, a line for each look."""
    return tuple(f"{check.name}: {check.words}" for check in diagnosis.checks)


def _refuse(diagnosis: Diagnosis) -> None:
    if diagnosis.fault is Fault.NONE:
        raise ProcedureError(f"{diagnosis.node}: nothing is wrong, so nothing is done.", "See: tierdeck status")
    if diagnosis.fault in HOLDS:
        raise ProcedureError(f"{diagnosis.node}: {diagnosis.sentence}.", diagnosis.advice)


def _first(diagnosis: Diagnosis, node: Node) -> Rung:
    """The least invasive rung that can help against a fault."""
    match diagnosis.fault:
        case Fault.ASLEEP:
            return "wake"
        case Fault.DESKTOP_ONLY | Fault.NOBODY_LOGGED_IN:
            return "rdp"
        case Fault.DOCKER_DOWN:
            return "docker"
        case _:
            return "service" if all(":" in part for part in diagnosis.parts) else "containers"


def _restarted(inventory: Inventory, snapshot: ClusterSnapshot, diagnosis: Diagnosis, node: Node) -> Plan:
    """Services and containers, through the gate of their host."""
    again = diagnosis.fault in (Fault.ENGINE_STUCK, Fault.GPU_LOST, Fault.ON_CPU, Fault.SERVICE_DOWN)
    plan = plan_queue(inventory, snapshot, node.name, only=diagnosis.parts or None, restart=again)
    return replace(
        plan,
        kind="recovery",
        title=f"Recover {node.name}: {diagnosis.sentence}",
        steps=(*(_cure(step, diagnosis.fault) for step in plan.steps), _healthy(node)),
        why=evidence(diagnosis),
    )


def _cure(step: Step, fault: Fault) -> Step:
    """A container that lost its GPU is made anew; a restart would hand it the same lost devices."""
    restarts = fault is Fault.GPU_LOST and step.kind == "start_container" and step.arguments["runtime"] == "docker"
    return recreate_step(step) if restarts else step


def _climb(node: Node, first: Rung, rungs: Sequence[Rung], *, is_here: bool, unattended: bool) -> list[Step]:
    rdp = node.wake is not None and node.wake.rdp is not None and "rdp" in rungs
    here: dict[str, str | bool] = {"node": node.name}
    steps: list[Step] = []
    if first == "wake" and node.wake is not None and (node.wake.mac or node.wake.command):
        if node.kubernetes is not None:
            steps.append(stand_down_step(node, Danger.CHANGES, may_fail=True))
        steps.append(Step("wake", f"wake {node.name}", dict(here), WAKE_BACK + 30, Danger.CHANGES, _wake_words(node)))
        if node.may_have_docker:
            soon = {**here, "limit": SOON}
            steps.append(Step("wait_docker", f"wait for Docker on {node.name}", soon, SOON + 30, may_fail=True))
    if (first == "docker" or (first == "wake" and steps)) and node.may_have_docker:
        shown, limit = docker_command(node, here=is_here).shown, DOCKER_LIMIT + DOCKER_BACK + 30
        label = f"restart Docker on {node.name}"
        steps.append(Step("restart_docker", label, dict(here), limit, Danger.CHANGES, shown, may_fail=rdp))
    if rdp and (first == "rdp" or steps):
        steps.append(desktop_step(node, unattended=unattended))
    return steps


def desktop_step(node: Node, *, unattended: bool) -> Step:
    """The step that opens a desktop session on a node whose wake names a login, unless Docker answers by then."""
    held: dict[str, str | bool] = {"node": node.name, "unattended": unattended}
    label, limit = f"open a desktop session on {node.name}", 2 * DOCKER_BACK + HOLD + 60
    return Step("desktop_session", label, held, limit, Danger.CHANGES, _rdp_words(node))


def _wake_words(node: Node) -> str:
    assert node.wake is not None
    if node.wake.command:
        return node.wake.command
    via = f", sent by {node.wake.via}" if node.wake.via else ""
    return f"Wake-on-LAN packet to {node.wake.mac}{via}"


def _rdp_words(node: Node) -> str:
    assert node.wake is not None
    assert node.wake.rdp is not None
    rdp = node.wake.rdp
    return f"xfreerdp /v:{node.address}:{rdp.port} /u:{rdp.user} /from-stdin  (its password by standard input)"


def _climbs(steps: Iterable[Step]) -> bool:
    return any(step.danger is not Danger.NONE and step.kind != "start_queue" for step in steps)


def after(node: Node) -> list[Step]:
    """The steps that follow once Docker should be back: all that is to run there started in order, health again."""
    here = {"node": node.name}
    steps = []
    if node.may_have_docker:
        steps.append(Step("wait_docker", f"wait for Docker on {node.name}", dict(here), DOCKER_BACK + 30))
    if node.kubernetes is not None:
        label = f"wait until {node.name} is ready in {node.kubernetes.cluster}"
        steps.append(Step("wait_kubernetes", label, dict(here), DOCKER_BACK + 30))
    if steps:
        limit = node.queue.hard_timeout * max(1, len(node.queue.order))
        label = f"start queue of {node.name}"
        steps.append(
            Step("start_queue", label, dict(here), limit, Danger.CHANGES, "one after the other, each behind its gate")
        )
    return [*steps, _healthy(node)]


def _healthy(node: Node) -> Step:
    return Step("healthy", f"health of {node.name} again", {"node": node.name}, 120.0)


def _no_way(node: Node, diagnosis: Diagnosis) -> str:
    if diagnosis.fault is Fault.ASLEEP:
        return f'cluster.toml names no way to wake {node.name}: wake = {{ mac = "..." }}. Or press its button.'
    if diagnosis.fault in (Fault.DESKTOP_ONLY, Fault.NOBODY_LOGGED_IN):
        return f"Somebody has to log in; or name {node.name}'s desktop login: wake = {{ rdp = {{ user, password }} }}."
    return diagnosis.advice or f"No rung of the ladder leads there; see: tierdeck diagnose {node.name}"


def _blast(inventory: Inventory, snapshot: ClusterSnapshot, node: Node, steps: Sequence[Step]) -> BlastRadius:
    """Restarting Docker stops whatever still runs under it."""
    if not any(step.kind == "restart_docker" for step in steps):
        return BlastRadius()
    workloads = [w for w in snapshot.nodes[node.name].workloads if w.runtime == "docker" and w.running]
    own = {e.container for e in inventory.endpoints if e.node == node.name}
    ours = blast(inventory, snapshot, node.name, [w.name for w in workloads if w.name in own])
    others = sorted((w for w in workloads if w.name not in own), key=_felt)
    return replace(ours, bystanders=tuple(w.name for w in others))


def _felt(workload: Workload) -> tuple[int, str]:
    name = workload.name.lower()
    return next((i for i, word in enumerate(_BYSTANDERS) if word in name), len(_BYSTANDERS)), name


def _warnings(
    inventory: Inventory, node: Node, diagnosis: Diagnosis, steps: Sequence[Step], *, unattended: bool
) -> Iterable[str]:
    if any(step.kind == "restart_docker" for step in steps):
        yield "What runs under Docker cannot be listed while it does not answer: all of it restarts with it."
    users = next((c.words for c in diagnosis.checks if c.name == "desktop session" and c.state == "ok"), "")
    if users and any(step.kind == "desktop_session" for step in steps):
        yield f"{node.name}: {users}; a session of their own name is taken over."
    if diagnosis.fault in (Fault.ASLEEP, Fault.DESKTOP_ONLY) and inventory.lock_host in (None, node.name):
        yield f"No lock_host: while {node.name} is out of reach, only this machine knows of this recovery."
        if unattended:
            raise ProcedureError(
                f"{node.name} is out of reach, and cluster.toml names no lock_host.",
                'Unattended, nothing is woken without one: lock_host = "NODE".',
            )
