"""What the key of the gateway does: its file against the cluster, and the push of a new one."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING

from backends.errors import TierdeckError
from tui.procedures import Procedures

if TYPE_CHECKING:
    from backends.cluster.inventory import Inventory
    from backends.cluster.snapshot import ClusterSnapshot
    from backends.gateway.render import Rendered
    from widgets.gateway import GatewayPage


class Fronting(Procedures):
    """The part of the actions that is about the gateway."""

    async def gateway(self) -> None:
        """Open the gateway's screen; nothing is changed by that."""
        app = self._app
        await asyncio.to_thread(importlib.import_module, "backends.procedures.pushing")
        from tui.screens.gateway import GatewayScreen

        push = None if app.setup.read_only else self._push
        app.push_screen(GatewayScreen(self._gateway_page, push, app.setup.glyphs))

    async def _gateway_page(self) -> GatewayPage:
        inventory, snapshot = self._app.setup.loaded.inventory, self._app.feed.snapshot
        former, trouble = None, ""
        try:
            former = await self._app.feed.world.gateway_file()
        except TierdeckError as error:
            trouble = str(error)
        return await asyncio.to_thread(page_of, inventory, snapshot, former, trouble)

    async def _push(self) -> None:
        from backends.procedures.pushing import plan_push

        app = self._app
        inventory, snapshot = app.setup.loaded.inventory, app.feed.snapshot
        try:
            former = await app.feed.world.gateway_file()
            rendered = _rendered(inventory, snapshot)
            plan = plan_push(inventory, snapshot, rendered.text, former, rendered.remarks, name="what is rendered")
        except TierdeckError as error:
            app.say(str(error), "bad")
            return
        self._ask(plan, "Push")


def _rendered(inventory: Inventory, snapshot: ClusterSnapshot) -> Rendered:
    from backends.gateway.render import render

    return render(inventory, {name: state.models for name, state in snapshot.endpoints.items()})


def page_of(inventory: Inventory, snapshot: ClusterSnapshot, former: bytes | None, trouble: str) -> GatewayPage:
    """The page for a gateway's file, None where there is none; GatewayError where nothing can be rendered."""
    from backends.gateway.render import gateway_endpoint
    from backends.procedures.pushing import groups_of
    from widgets.gateway import GatewayPage, Group

    rendered = _rendered(inventory, snapshot)
    groups = tuple(
        Group(name, tuple((each, snapshot.endpoints[each].serving) for each in behind.endpoints))
        for name, behind in groups_of(inventory, rendered.text).items()
    )
    page = GatewayPage(
        gateway_endpoint(inventory).name,
        (inventory.gateway.config or "") if inventory.gateway else "",
        groups,
        remarks=rendered.remarks,
        trouble=trouble,
    )
    if not former:
        return page
    try:
        return _compared(page, former.decode("utf-8", "replace"), rendered.text, inventory, snapshot)
    except TierdeckError as error:
        return replace(page, trouble=str(error))


def _compared(
    page: GatewayPage, text: str, rendered: str, inventory: Inventory, snapshot: ClusterSnapshot
) -> GatewayPage:
    """The page with what is wrong with the file, and what a push would change in it."""
    from backends.gateway.compare import compare, unread
    from backends.gateway.document import difference
    from backends.gateway.lint import lint, masked

    served = {name: state.models for name, state in snapshot.endpoints.items()}
    running = [model.name for model in snapshot.endpoints[page.endpoint].models]
    return replace(
        page,
        findings=lint(text, inventory, served, name="the gateway's file"),
        changes=tuple(compare(text, rendered)),
        unread=tuple(unread(text, running)) if running else (),
        diff=tuple(difference(masked(text), masked(rendered), "the gateway's file", "rendered")),
    )
