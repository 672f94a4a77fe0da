"""Which keys need a right that a cluster does not give us: they are greyed, and answer with what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from backends.cluster.reading import Workload
from backends.errors import TierdeckError
from tui.actions import ACTIONS, Action
from tui.selection import container_selected, node_or_none

if TYPE_CHECKING:
    from tui.app import TierdeckApp


def forbidden(app: TierdeckApp) -> dict[str, str]:
    """The actions that may not be done to what is selected, each with the missing right in words."""
    found = {}
    for action in ACTIONS:
        if action.right:
            words = [workload.forbids(action.right) for workload in _concerned(app, action)]
            if words and all(words):
                found[action.id] = words[0]
    return found


def _concerned(app: TierdeckApp, action: Action) -> Iterable[Workload]:
    """What an action is about: the queue all that it would start on the node, the others the selected workload."""
    nodes = app.dashboard.snapshot.nodes
    if action.id == "queue":
        node = node_or_none(app)
        if node is None or node not in nodes:
            return []
        names = {name for name, *_ in app.dashboard.queue.startable(node)}
        return [workload for workload in nodes[node].workloads if workload.name in names]
    try:
        node, name = container_selected(app)
    except TierdeckError:
        return []
    return [w for w in nodes[node].workloads if w.name == name] if node in nodes else []
