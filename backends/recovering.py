"""Recovery without a person: which nodes `tierdeck watch --recover` climbs the ladder for, when, and what it tells.

Only nodes whose inventory says so, no higher than it says, so often an hour; several nodes that vanish together are
not theirs to be recovered from (DESIGN, section 5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from backends.alerts.news import DOWN, UP, Message
from backends.clock import Clock
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Instant, ProcedureState
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Node, Recover
from backends.cluster.words import LEFT_OUT, Verdict
from backends.errors import TierdeckError
from backends.procedures.events import StepEvent
from backends.procedures.recovery import plan_recovery
from backends.world import World

TOGETHER: Final = 60.0
"""Seconds within which nodes that fall count as fallen together."""

SETTLE: Final = 15.0
"""Seconds for which a node has to be down before anything is done: others may be about to follow."""

COOL_DOWN: Final = 300.0
"""Seconds after a recovery that did not help before the next of that node."""

HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Due:
    """Nodes to be recovered now, and those held, with the reason."""

    nodes: tuple[str, ...] = ()
    held: Mapping[str, str] | None = None


class Judge:
    """Decides; it remembers since when each node is down and which recoveries it has seen begin."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._down: dict[str, float] = {}

    def due(self, snapshot: ClusterSnapshot, now: Instant) -> Due:
        """What is to be done about `snapshot`."""
        down = [node for node in self._inventory.nodes if _is_down(self._inventory, snapshot, node.name)]
        self._down = {node.name: self._down.get(node.name, now.mono) for node in down}
        nodes, held = [], {}
        for node in down:
            if not isinstance(node.recover, Recover) or now.mono - self._down[node.name] < SETTLE:
                continue
            why = self._held(node, node.recover, snapshot, now)
            if why is None:
                nodes.append(node.name)
            elif why:
                held[node.name] = why
        return Due(tuple(nodes), held)

    def _held(self, node: Node, allowed: Recover, snapshot: ClusterSnapshot, now: Instant) -> str | None:
        """Why not now: None where it is due, "" where it is not worth a word."""
        others = [n for n, at in self._down.items() if n != node.name and abs(at - self._down[node.name]) < TOGETHER]
        if others:
            return f"{node.name} went down together with {', '.join(others)}: not theirs to be recovered from"
        own = [p for p in snapshot.procedures if p.node == node.name]
        if any(p.open for p in own):
            return ""
        recent = [p for p in own if p.kind == "recovery" and now.wall - p.started < HOUR]
        if recent and max(p.started for p in recent) > now.wall - COOL_DOWN:
            return ""
        if len(recent) >= allowed.max_recoveries_per_hour:
            return f"{node.name} was recovered {len(recent)} times within the hour; a person has to look"
        return None


def _is_down(inventory: Inventory, snapshot: ClusterSnapshot, node: str) -> bool:
    """Whether anything that is to serve there is DOWN; what is under maintenance is left out."""
    states = [snapshot.endpoints[e.name] for e in inventory.endpoints if e.node == node and not e.on_demand]
    return any(state.verdict is Verdict.DOWN and state.cause not in LEFT_OUT for state in states)


class Recovering:
    """Climbs for one node after the other; `tell` takes the messages, `say` a line for the log."""

    def __init__(
        self,
        inventory: Inventory,
        world: World,
        clock: Clock,
        snapshot: Callable[[], ClusterSnapshot],
        tell: Callable[[Message], object],
        say: Callable[[str], object],
    ) -> None:
        self._inventory, self._world, self._clock = inventory, world, clock
        self._snapshot, self._tell, self._say = snapshot, tell, say
        self._judge = Judge(inventory)
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Look every few seconds until cancelled; a climb that runs goes on without us."""
        async with asyncio.TaskGroup() as group:
            climbing: dict[str, asyncio.Task[None]] = {}
            while True:
                due = self._judge.due(self._snapshot(), self._clock.now())
                self._tell_held(due.held or {})
                for node in due.nodes:
                    if node not in climbing or climbing[node].done():
                        climbing[node] = group.create_task(self._climb(node), name=f"recover {node}")
                await self._clock.sleep(2.0)

    def _tell_held(self, held: Mapping[str, str]) -> None:
        for node, why in held.items():
            if self._told.get(node) != why:
                self._tell(Message(f"{node} is not recovered", why, DOWN))
                self._say(why)
        self._told = {node: why for node, why in self._told.items() if node in held} | dict(held)

    async def _climb(self, node: str) -> None:
        """Diagnose, plan, climb, and tell how it went."""
        allowed = self._inventory.node_named[node].recover
        assert isinstance(allowed, Recover)
        try:
            diagnosis, snapshot = await self._world.diagnose(node)
            plan = plan_recovery(self._inventory, snapshot, diagnosis, highest=allowed.auto, unattended=True)
            procedure = await self._world.procedures.start(plan, attended=False)
        except TierdeckError as error:
            self._hold(node, str(error))
            return
        self._announce(f"recovering {node}", f"{plan.title}\n{_steps(s.label for s in plan.steps)}", DOWN)
        state, last = await self._followed(procedure)
        if state is not None and state.state == "done":
            self._announce(f"{node} is recovered", _took(state), UP)
        else:
            self._announce(f"{node} is not recovered", f"{last}\nSee: tierdeck procedures attach {procedure}", DOWN)

    async def _followed(self, procedure: str) -> tuple[ProcedureState | None, str]:
        """How it ended, and the last failure's words."""
        state: ProcedureState | None = None
        last = ""
        async with aclosing(self._world.procedures.attach(procedure)) as events:
            async for event in events:
                state = self._world.fold_event(state, event)
                last = event.text if _tells(event) else last
        return state, last

    def _hold(self, node: str, why: str) -> None:
        if self._told.get(f"plan {node}") != why:
            self._told[f"plan {node}"] = why
            self._announce(f"{node} is not recovered", why, DOWN)

    def _announce(self, title: str, body: str, worst: str) -> None:
        self._tell(Message(title, body, worst))
        self._say(f"{title}: {body.splitlines()[0] if body else ''}")


def _tells(event: StepEvent) -> bool:
    return event.event in ("step_failed", "finished", "lost") and bool(event.text)


def _steps(labels: Iterable[str]) -> str:
    return "\n".join(f"- {label}" for label in labels)


def _took(state: ProcedureState) -> str:
    """What worked, and the time each took."""
    done: Sequence[str] = [
        f"- {step.label}: {step.ended - step.started:.0f} s"
        for step in state.steps
        if step.state == "done" and step.started is not None and step.ended is not None
    ]
    return "\n".join(done)
