"""Pane 3: the containers of each node in the order in which they start, what each waits for, and open procedures."""

from __future__ import annotations

from collections.abc import Sequence

from backends.cluster.inventory import Inventory
from backends.cluster.reading import ProcedureState, StepState, Workload
from backends.cluster.snapshot import ClusterSnapshot, NodeState
from backends.cluster.tables import Endpoint, Node
from widgets.cluster import ClusterPane
from widgets.format import age, fit
from widgets.glyphs import Glyphs
from widgets.lines import Line, line

_STEP_STYLES = {"done": "good", "skipped": "dim", "running": "accent", "failed": "bad", "waiting": "dim"}


class QueuePane(ClusterPane):
    """Draws start queues: real states, live."""

    def __init__(self, inventory: Inventory, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(inventory, glyphs, "3 Start queue", id=id)

    def show(self, snapshot: ClusterSnapshot) -> None:
        """Draw this snapshot's containers and procedures, if they changed or seconds are being counted."""
        if snapshot.taken is None:
            return
        part = (
            {name: (n.workloads, n.workloads_trouble, n.reach_trouble) for name, n in snapshot.nodes.items()},
            {name: (e.cause, e.evidence) for name, e in snapshot.endpoints.items()},
            snapshot.procedures,
        )
        busy = any(p.open for p in snapshot.procedures) or self._starting(snapshot)
        if part != self._slice or busy:
            self._slice, self._snapshot = part, snapshot
            self.redraw()

    def _starting(self, snapshot: ClusterSnapshot) -> bool:
        return any(e.cause is not None and e.cause.value == "LOADING" for e in snapshot.endpoints.values())

    def compose_lines(self, width: int) -> Sequence[Line]:
        """For each node a heading, its open procedure, then its containers."""
        if self._snapshot is None:
            return []
        lines: list[Line] = []
        for procedure in self._snapshot.procedures:
            if procedure.open or procedure.state in ("halted", "lost"):
                lines.extend(self._procedure(procedure, width))
        for node in self._inventory.nodes:
            if node.docker is not False:
                lines.extend(self._node(node, self._snapshot.nodes[node.name], width))
        return lines or [line(("no node of this cluster runs containers", "dim"))]

    def startable(self, node: str) -> list[tuple[str, str, str]]:
        """The containers of a node that can be queued, in their order, as (name, a word on each, its style)."""
        if self._snapshot is None:
            return []
        known = {w.name: w for w in self._snapshot.nodes[node].workloads}
        here = {e.container: e for e in self._inventory.endpoints_on[node] if e.container}
        order = self._inventory.node_named[node].queue.order
        others = [n for n, e in here.items() if n and n in known and known[n].gpu and not e.on_demand]
        names = [n for n in dict.fromkeys([*order, *others]) if n in known]
        words = [(name, self._word(here.get(name), known[name])) for name in names]
        return [(name, word, style) for name, (word, _, style) in words]

    def _procedure(self, procedure: ProcedureState, width: int) -> list[Line]:
        style = "accent" if procedure.open else "bad"
        head = f"{self.glyphs.running} {procedure.title}: {procedure.state}, by {procedure.owner}"
        lines = [line((fit(head, width, self.glyphs.ellipsis), style), key=f"procedure:{procedure.id}")]
        if procedure.question:
            lines.append(line((fit("  " + procedure.question, width, self.glyphs.ellipsis), "warn")))
        return lines + [self._step(step, width) for step in procedure.steps]

    def _step(self, step: StepState, width: int) -> Line:
        glyph = {
            "done": self.glyphs.done,
            "running": self.glyphs.running,
            "failed": self.glyphs.failed,
            "skipped": self.glyphs.done,
        }.get(step.state, self.glyphs.waiting)
        now = self._snapshot.taken.wall if self._snapshot and self._snapshot.taken else None
        end = step.ended if step.ended is not None else now if step.state == "running" else None
        spent = f" {max(0, end - step.started):.0f} s" if step.started is not None and end is not None else ""
        room = 10 if width >= 60 else 4
        bar = "" if step.progress is None else self.glyphs.progress(step.progress, room, estimate=step.estimate)
        words = f"  {glyph} {step.label} {bar or step.state}{spent}  {step.detail}"
        return line((fit(words, width, self.glyphs.ellipsis), _STEP_STYLES.get(step.state, "")))

    def _node(self, node: Node, state: NodeState, width: int) -> list[Line]:
        known = {w.name: w for w in state.workloads}
        named = [e.container for e in self._inventory.endpoints_on[node.name] if e.container]
        names = list(dict.fromkeys([*node.queue.order, *named, *(w.name for w in state.workloads if w.gpu)]))
        trouble = state.workloads_trouble or state.reach_trouble
        if not names and trouble is None:
            return []
        lines = [line((node.name, "title"), ("  here" if state.here else "", "dim"), key=f"node:{node.name}")]
        if trouble is not None:
            words = fit(f"  {trouble.message} {trouble.advice}", width, self.glyphs.ellipsis)
            return [*lines, line((words, "bad"), key=f"node:{node.name}")]
        if state.workloads_taken is None:
            return [*lines, line((f"  reading{self.glyphs.ellipsis}", "dim"))]
        return lines + [self._workload(node, name, known.get(name), width) for name in names]

    def _workload(self, node: Node, name: str, workload: Workload | None, width: int) -> Line:
        endpoint = next((e for e in self._inventory.endpoints_on[node.name] if e.container == name), None)
        word, detail, style = self._word(endpoint, workload)
        glyph = {
            "good": self.glyphs.up,
            "accent": self.glyphs.running,
            "bad": self.glyphs.down,
            "warn": self.glyphs.degraded,
        }.get(style, self.glyphs.waiting)
        position = node.queue.order.index(name) + 1 if name in node.queue.order else None
        order = f"{position}." if position else "  "
        head = f"  {glyph} {order:<3}{fit(name, min(22, max(8, width // 3)), self.glyphs.ellipsis)} {word:<10}"
        key = f"container:{node.name}/{name}"
        return line((head, style), (fit(" " + detail, max(0, width - len(head)), self.glyphs.ellipsis), "dim"), key=key)

    def _word(self, endpoint: Endpoint | None, workload: Workload | None) -> tuple[str, str, str]:
        """One word for a container, what it waits for or died of, and a style."""
        if workload is None or workload.state == "missing":
            return "missing", "no container of this name", "bad"
        if workload.update:
            return "updating", workload.update, "warn"
        restarts = f"restart: {workload.restart_policy}" if workload.gpu and workload.restart_policy != "no" else ""
        if not workload.running:
            return _stopped(workload, restarts)
        beside = restarts or workload.scaling
        assert self._snapshot is not None
        state = self._snapshot.endpoints.get(endpoint.name) if endpoint else None
        if state is None or state.cause is None:
            return (
                workload.health or "running",
                restarts or workload.scaling,
                "good" if workload.health != "unhealthy" else "bad",
            )
        if state.serving:
            return "ready", beside, "good"
        now = self._snapshot.taken
        spent = f"{age(now.wall - workload.started_at)} " if now and workload.started_at else ""
        if state.cause.value == "LOADING":
            return "loading", f"{spent} {state.evidence}", "accent"
        return "running", f"{state.cause.value.lower()}: {state.evidence}", "warn"


def _stopped(workload: Workload, restarts: str) -> tuple[str, str, str]:
    if workload.state == "created" and not workload.error:
        return "created", restarts, "dim"
    if workload.state != "exited":
        return workload.state, workload.error or restarts, "warn"
    why = "out of memory" if workload.oom_killed else workload.error or f"code {workload.exit_code}"
    good = workload.exit_code in (0, 137, 143) and not workload.oom_killed
    return "stopped" if good else "exited", f"{why}  {restarts}".rstrip(), "dim" if good else "bad"
