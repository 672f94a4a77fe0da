"""Plans the start queue of a node: its containers one after the other, what is ready left alone."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot, NodeState
from backends.cluster.tables import Endpoint, Node
from backends.errors import ProcedureError
from backends.procedures import gate
from backends.procedures.container import Start
from backends.procedures.context import endpoints_in, residence, title
from backends.procedures.plan import BlastRadius, Danger, Plan, Step
from backends.procedures.trouble import call
from backends.procedures.updating import hold_step, turn_over_step


def plan_queue(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    node: str,
    *,
    only: Sequence[str] | None = None,
    restart: bool = False,
) -> Plan:
    """What would start `node`'s containers in order; `only` names some of them, `restart` includes the ready ones.

    ProcedureError where the node, a container of the order or of `only` is unknown, or where there is nothing to queue.
    """
    table = inventory.node_named.get(node)
    if table is None:
        raise ProcedureError(f'There is no node "{node}".{_nearest(node, inventory.node_named)}')
    known = _workloads(snapshot.nodes.get(node), node)
    names, remarks = _chosen(inventory, table, known, only)
    updating = {name for name in names if known[name].update}
    ready = {name for name in names if is_ready(inventory, snapshot, node, known[name])} - updating
    started = [name for name in names if restart or name not in ready]
    _refuse_forbidden(known[name] for name in started)
    steps = [hold_step(node, known[name]) for name in names if name in updating]
    for name in names:
        if name in updating:
            steps += [turn_over_step(node, known[name]), start_step(table, known[name], last=name == started[-1])]
        elif name in started:
            steps.append(start_step(table, known[name], restart=restart, last=name == started[-1]))
        else:
            steps.append(_left_alone(table, known[name]))
    interrupted = [name for name in started if name in updating or (restart and known[name].running)]
    return Plan(
        kind="queue",
        node=node,
        title=_title(node, started, ready - set(started), restart),
        steps=tuple(steps),
        blast=blast(inventory, snapshot, node, interrupted),
        warnings=(*remarks, *_warnings(inventory, snapshot, table, known, names)),
        targets=tuple(started),
    )


def is_ready(inventory: Inventory, snapshot: ClusterSnapshot, node: str, workload: Workload) -> bool:
    """Whether a workload runs and is ready, as far as the snapshot tells; the step itself asks again."""
    if not workload.running:
        return False
    endpoints = endpoints_in(inventory, node, title(workload))
    if not endpoints:
        return gate.judge(workload, (), snapshot.taken.wall if snapshot.taken else 0.0).ready
    states = [snapshot.endpoints.get(endpoint.name) for endpoint in endpoints]
    return all(state is not None and state.cause in gate.READY for state in states)


def _workloads(state: NodeState | None, node: str) -> dict[str, Workload]:
    if state is None or (not state.workloads and (state.workloads_trouble or state.workloads_taken is None)):
        trouble = (state.workloads_trouble or state.reach_trouble) if state else None
        why = trouble.message if trouble else "it has not been read yet."
        raise ProcedureError(f"What runs on {node} is not known: {why}", trouble.advice if trouble else "Try again.")
    return {title(workload): workload for workload in state.workloads}


def _chosen(
    inventory: Inventory, node: Node, known: dict[str, Workload], only: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The containers to queue in order, and remarks on those left out."""
    order = list(dict.fromkeys(node.queue.order))
    resident, on_demand = _residents(inventory, node)
    others = [name for name in resident if name not in order and name in known and known[name].gpu]
    remarks: list[str] = []
    if only is not None:
        listed = [name for name in (*order, *others) if name in only]
        names = list(dict.fromkeys((*listed, *only)))
    else:
        names = [name for name in (*order, *others) if name not in on_demand]
        remarks = [f"{n} is started on demand: left out (name it with --only)." for n in order if n in on_demand]
    for name in names:
        if name not in known:
            _refuse_unknown(node, name, known, named_in_order=name in order)
    if not names:
        raise ProcedureError(
            f"{node.name} has nothing to queue: no queue.order, and no GPU container with an endpoint.",
            f'Name its containers in cluster.toml: [[nodes]] name = "{node.name}", queue = {{ order = [...] }}',
        )
    return names, remarks


def all_of(inventory: Inventory, node: Node, known: Collection[str]) -> list[str]:
    """What is to run on a node, in order: its queue.order, then whatever its endpoints run in; nothing on demand."""
    resident, on_demand = _residents(inventory, node)
    names = dict.fromkeys((*node.queue.order, *resident))
    return [name for name in names if name in known and name not in on_demand]


def _residents(inventory: Inventory, node: Node) -> tuple[list[str], set[str]]:
    """What the endpoints of a node run in: what always runs, in the inventory's order, and what runs on demand."""
    here = [e for e in inventory.endpoints if e.node == node.name and residence(e)]
    resident = dict.fromkeys(residence(e) for e in here if not e.on_demand)
    return list(resident), {residence(e) for e in here} - set(resident)


def _refuse_unknown(node: Node, name: str, known: Iterable[str], *, named_in_order: bool) -> None:
    near = _nearest(name, known)
    if named_in_order:
        raise ProcedureError(
            f'queue.order of {node.name} names "{name}", and {node.name} has no such container.{near}',
            "Correct cluster.toml, or create the container.",
        )
    raise ProcedureError(f'{node.name} has no container "{name}".{near}')


def _refuse_forbidden(workloads: Iterable[Workload]) -> None:
    for workload in workloads:
        if words := workload.forbids("start"):
            raise ProcedureError(
                f"{words}, so {title(workload)} cannot be started.", "Have that right given to you in a Role."
            )


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f' Nearest: "{near[0]}".' if near else ""


def start_step(node: Node, workload: Workload, *, restart: bool = False, last: bool = False) -> Step:
    """The step that starts one workload; with `restart` also where it runs."""
    again = restart and workload.running
    verb = "restart" if again else "start"
    told = _told(node, workload, last=last)
    told = replace(told, restart=True, since=workload.started_at) if again else told
    command = call(workload.runtime, "start", workload.name)
    return Step(
        kind="start_container",
        label=f"{verb} {title(workload)}",
        arguments=told.to_json(),
        time_limit=node.queue.hard_timeout,
        danger=Danger.INTERRUPTS if again else Danger.CHANGES,
        command=f"{call(workload.runtime, 'stop', workload.name)}; {command}" if again else command,
    )


def _left_alone(node: Node, workload: Workload) -> Step:
    """It is told how to start it all the same: a Docker that restarts in mid-queue takes it along."""
    return Step(
        kind="leave_alone",
        label=f"{title(workload)}: already ready, left alone",
        arguments=_told(node, workload, last=False).to_json(),
        time_limit=node.queue.hard_timeout,
    )


def _told(node: Node, workload: Workload, *, last: bool) -> Start:
    return Start(
        node=node.name,
        name=workload.name,
        runtime=workload.runtime,
        gpu=workload.gpu,
        gap=0.0 if last or not workload.gpu else node.queue.gap,
        patience=node.queue.ready_timeout,
    )


def _title(node: str, started: Sequence[str], left: Iterable[str], restart: bool) -> str:
    count = len(list(left))
    ready = f"; {count} ready already, left alone" if count else ""
    if not started:
        return f"Start queue of {node}: nothing to do{ready}"
    return f"Start queue of {node}: {'restart' if restart else 'start'} {', '.join(started)}{ready}"


def blast(inventory: Inventory, snapshot: ClusterSnapshot, node: str, interrupted: Sequence[str]) -> BlastRadius:
    """What stops when these workloads of a node do, and who would serve meanwhile."""
    stopped = [e for name in interrupted for e in endpoints_in(inventory, node, name)]
    without = [name for name in interrupted if not endpoints_in(inventory, node, name)]
    tasks = dict.fromkeys(task for e in stopped for task in e.serves)
    names = {e.name for e in stopped}
    meanwhile = []
    for task in tasks:
        chain = (name for name in inventory.chain(task) if name not in names)
        by = next((n for n in chain if n in snapshot.endpoints and snapshot.endpoints[n].serving), "nobody")
        meanwhile.append(f"{task}: {by}")
    return BlastRadius(interrupts=(*(_work(snapshot, e) for e in stopped), *without), serves_meanwhile=tuple(meanwhile))


def _work(snapshot: ClusterSnapshot, endpoint: Endpoint) -> str:
    state = snapshot.endpoints.get(endpoint.name)
    running = state.progress.running if state and state.progress else None
    requests = f", {running} requests in flight" if running else ""
    return f"{endpoint.name} ({', '.join(endpoint.serves) or endpoint.engine}{requests})"


def _warnings(
    inventory: Inventory, snapshot: ClusterSnapshot, node: Node, known: dict[str, Workload], names: Sequence[str]
) -> list[str]:
    found = []
    for name, workload in known.items():
        waits = workload.gpu and workload.astir and name not in names
        if waits and not is_ready(inventory, snapshot, node.name, workload):
            found.append(f"{name} runs and is not ready: nothing is started before it is.")
    policies = [w for w in known.values() if w.gpu and w.restart_policy not in ("no", "")]
    if policies:
        listed = ", ".join(f"{w.name} ({w.restart_policy})" for w in policies)
        found.append(f"At the next boot Docker starts by itself, past this queue: {listed}.")
    if surging := [name for name, workload in known.items() if workload.gpu and workload.surges]:
        listed = ", ".join(surging)
        found.append(f"At its next update a second pod starts beside the first, past this queue: {listed}.")
    for one, other in combinations(names, 2):
        if shared := set(known[one].ports) & set(known[other].ports):
            found.append(f"{one} and {other} both publish port {min(shared)}: only one of them can run.")
    blind = [name for name in names if known[name].gpu and not endpoints_in(inventory, node.name, name)]
    if blind:
        listed = ", ".join(blind)
        found.append(f"No endpoint in cluster.toml, so ready is what a health check says, or running: {listed}.")
    state = snapshot.nodes[node.name]
    if any(known[name].gpu for name in names) and (node.gpus == "none" or state.gpus_trouble):
        found.append(f"The GPU memory of {node.name} cannot be read: the gate is ready and gap only.")
    return found
