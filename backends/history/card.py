"""One incident as Markdown, redacted: fault, evidence, what changed, course, cure; fit for a forum post. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.history.compare import Difference
from backends.history.moments import Moment
from backends.history.redact import Redactor

BEFORE: Final = 120.0
"""Seconds of course that are told before the fall, and after the recovery."""

MOST: Final = 40
"""Lines of course."""

LONGEST: Final = 1000
"""Characters of a line."""


@dataclass(frozen=True, slots=True)
class Incident:
    """What is known of one: the endpoint, its fall and its way back (None: not back yet), and all that happened."""

    endpoint: str
    fall: Moment
    back: Moment | None
    moments: tuple[Moment, ...]
    differences: tuple[Difference, ...]


def card(inventory: Inventory, snapshot: ClusterSnapshot, incident: Incident) -> str:
    """The incident as Markdown; what is quoted stands in indented blocks, where nothing of it is markup."""
    told = Redactor(inventory)
    return "\n".join(_printable(told(line)) for line in _lines(inventory, snapshot, incident)) + "\n"


def _printable(line: str) -> str:
    """One line, without anything that a terminal could obey."""
    return "".join(c if c.isprintable() else " " for c in line[:LONGEST])


def _lines(inventory: Inventory, snapshot: ClusterSnapshot, incident: Incident) -> Iterator[str]:
    endpoint = inventory.endpoint_named[incident.endpoint]
    fall, back = incident.fall, incident.back
    cause = fall.text.partition(" -> ")[2].partition(":")[0]
    yield f"# {endpoint.name} ({endpoint.engine}): {cause}"
    yield ""
    lasted = f"back after {_span(back.at - fall.at)}" if back else "not back when this was written"
    yield f"{datetime.fromtimestamp(fall.at, UTC):%Y-%m-%d %H:%M} UTC, {lasted}."
    yield from _section("Fault", [fall.text])
    yield from _section("Where", _where(inventory, snapshot, incident.endpoint))
    rows = [f"{d.what}: {d.was or 'none'} -> {d.now or 'none'}" for d in incident.differences]
    yield from _section("What changed since it last worked", rows or ["nothing that is recorded"])
    around = list(_course(inventory, incident))
    yield from _section("Course", [f"{_offset(m.at - fall.at):>9}  {m.text}" for m in around[:MOST]])
    yield from _section("Cure", [_cure(around, fall, back)])


def _section(title: str, rows: Sequence[str]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    for row in rows:
        yield f"    {row}"


def _where(inventory: Inventory, snapshot: ClusterSnapshot, name: str) -> list[str]:
    endpoint, state = inventory.endpoint_named[name], snapshot.endpoints[name]
    rows = [f"engine: {endpoint.engine} {state.version or ''}".strip()]
    if state.models:
        rows.append(f"models: {', '.join(model.name for model in state.models[:6])}")
    if (workload := workload_of(snapshot, endpoint)) is not None:
        rows.append(f"runs in: {workload.runtime}, {workload.image or 'native'}, GPU {'yes' if workload.gpu else 'no'}")
    node = inventory.node_named.get(endpoint.node or "")
    if node is not None:
        gpus = ", ".join(gpu.name for gpu in snapshot.nodes[node.name].gpus)
        rows.append(f"machine: {node.os}{', ' + gpus if gpus else ''}")
    return rows


def _course(inventory: Inventory, incident: Incident) -> Iterator[Moment]:
    """What happened meanwhile to the endpoint, its tier and its node, and the steps that ran there."""
    endpoint = inventory.endpoint_named[incident.endpoint]
    about = {endpoint.name, endpoint.tier, endpoint.node}
    end = incident.back.at + BEFORE if incident.back else float("inf")
    for moment in incident.moments:
        if incident.fall.at - BEFORE <= moment.at <= end and moment.subject in about:
            yield moment


def _cure(course: Sequence[Moment], fall: Moment, back: Moment | None) -> str:
    if back is None:
        return "none yet"
    steps = [m for m in course if m.kind == "step" and m.word == "UP" and fall.at <= m.at <= back.at]
    return steps[-1].text if steps else "It came back without a procedure of tierdeck."


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {rest} s" if minutes else f"{rest} s"


def _offset(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{_span(abs(seconds))}"
