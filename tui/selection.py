"""What the selected line of the dashboard stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.errors import TierdeckError

if TYPE_CHECKING:
    from tui.app import TierdeckApp


def container_selected(app: TierdeckApp) -> tuple[str, str]:
    """The node and the container or service of the selected line; TierdeckError where it names none."""
    kind, _, name = (app.dashboard.selection() or "").partition(":")
    if kind == "container":
        node, _, container = name.partition("/")
        return node, container
    endpoint = app.setup.loaded.inventory.endpoint_named.get(name) if kind == "endpoint" else None
    if endpoint is not None and endpoint.node and (endpoint.container or endpoint.service):
        return endpoint.node, endpoint.container or endpoint.service or ""
    raise TierdeckError("No container is selected.", "Select one in pane 3, or an endpoint that names its container.")


def node_selected(app: TierdeckApp) -> str:
    """The node of the selected line, else the first with a queue; TierdeckError where there is none."""
    inventory = app.setup.loaded.inventory
    kind, _, name = (app.dashboard.selection() or "").partition(":")
    endpoint = inventory.endpoint_named.get(name) if kind == "endpoint" else None
    tier = [e.node for e in inventory.endpoints_of.get(name, ()) if e.node] if kind == "tier" else []
    node = (
        name.partition("/")[0]
        if kind in ("node", "container")
        else endpoint.node
        if endpoint
        else tier[0]
        if tier
        else next((n.name for n in inventory.nodes if n.queue.order), None)
    )
    if not node:
        raise TierdeckError("No node is selected.", "Select a node, a container or an endpoint first.")
    return node


def node_or_none(app: TierdeckApp) -> str | None:
    """The node of the selected line, if it has one."""
    try:
        return node_selected(app)
    except TierdeckError:
        return None
