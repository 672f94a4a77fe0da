"""The prognosis: who serves each task now, who would next, and what would be left without the busiest node.

Pure functions over frozen data; about work, not about lamps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import EndpointState, Loss, Prognosis, TaskOutlook, TierState
from backends.cluster.words import TASKS, State


def prognosis(inventory: Inventory, endpoints: Mapping[str, EndpointState], tiers: Sequence[TierState]) -> Prognosis:
    """What the cluster can do now: about work, not about lamps."""
    tasks = {task: _outlook(inventory.chain(task), endpoints) for task in TASKS}
    assigned = inventory.assigned_tasks
    if assigned and not any(tasks[task].now for task in assigned):
        unknown = any(tier.state is State.UNKNOWN for tier in tiers)
        state = State.UNKNOWN if unknown else State.DOWN
    elif not assigned and tiers and all(tier.state is State.DOWN for tier in tiers):
        state = State.DOWN
    elif not tiers or all(tier.state is State.UNKNOWN for tier in tiers):
        state = State.UNKNOWN
    elif all(tier.state is State.HEALTHY for tier in tiers):
        state = State.HEALTHY
    else:
        state = State.DEGRADED
    summary, brief = _summary(inventory, tiers, tasks), _brief(inventory, tiers, tasks)
    return Prognosis(state, summary, tasks, brief, _without(inventory, endpoints, tasks))


def _outlook(chain: Iterable[str], endpoints: Mapping[str, EndpointState]) -> TaskOutlook:
    serving = [name for name in chain if name in endpoints and endpoints[name].serving]
    return TaskOutlook(serving[0], tuple(serving[1:])) if serving else TaskOutlook(None)


def _brief(inventory: Inventory, tiers: Sequence[TierState], tasks: Mapping[str, TaskOutlook]) -> str:
    ill = [f"{tier.name} {tier.state.value.lower()}" for tier in tiers if tier.state is not State.HEALTHY]
    nobody = [task for task in inventory.assigned_tasks if tasks[task].now is None]
    return ", ".join(ill) + (f" - {', '.join(nobody)}: nobody" if nobody else "") or "all healthy"


def _summary(inventory: Inventory, tiers: Sequence[TierState], tasks: Mapping[str, TaskOutlook]) -> str:
    ill = [f"{tier.name} is {tier.state.value}" for tier in tiers if tier.state is not State.HEALTHY]
    if not ill:
        return f"all {len(tiers)} tiers healthy" if len(tiers) > 1 else "healthy"
    assigned = inventory.assigned_tasks
    served: dict[str, list[str]] = {}
    for task in assigned:
        if (now := tasks[task].now) is not None:
            served.setdefault(inventory.endpoint_named[now].tier, []).append(task)
    work = [f"{', '.join(names)} served by {tier}" for tier, names in served.items()]
    nobody = [task for task in assigned if tasks[task].now is None]
    if nobody:
        work.append(f"{', '.join(nobody)}: nobody")
    return ", ".join(ill) + (". " + "; ".join(work) if work else "")


def _without(
    inventory: Inventory, endpoints: Mapping[str, EndpointState], tasks: Mapping[str, TaskOutlook]
) -> Loss | None:
    """What would be left if the busiest node died: the one on which most tasks hang now, or most endpoints serve."""
    served = {task: outlook for task, outlook in tasks.items() if outlook.now is not None}
    serving = Counter(e.node for e in inventory.endpoints if e.node and endpoints[e.name].serving)
    now_on = Counter(inventory.endpoint_named[o.now].node for o in served.values() if o.now)
    if not served or not serving:
        return None

    def weight(node: str) -> tuple[int, int]:
        return now_on[node], serving[node]

    busiest = max((n.name for n in inventory.nodes), key=weight)
    left = {task: _left(inventory, o, busiest) for task, o in served.items()}
    lost = tuple(task for task, endpoint in left.items() if endpoint is None)
    if len(lost) == len(served):
        words = f"if {busiest} dies, nothing is served"
    else:
        words = f"if {busiest} dies, " + (f"{', '.join(lost)}: nobody" if lost else "all goes on elsewhere")
    return Loss(busiest, lost, left, words)


def _left(inventory: Inventory, outlook: TaskOutlook, node: str) -> str | None:
    """Who would serve without that node; a gateway only while there is an engine left to lead to."""
    named = [inventory.endpoint_named[name] for name in (outlook.now, *outlook.next) if name]
    left = [endpoint for endpoint in named if endpoint.node != node]
    behind = any(endpoint.engine != "litellm" for endpoint in left)
    return left[0].name if left and (behind or all(e.engine == "litellm" for e in named)) else None
