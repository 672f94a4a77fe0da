"""What the keys of procedures do: plan, show, ask, start in a process of its own, follow."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.errors import ProcedureError, StaleLease, TierdeckError
from tui.screens.text import TextScreen
from tui.selection import node_selected
from widgets.lines import Line, line

if TYPE_CHECKING:
    from backends.procedures.plan import Plan
    from tui.app import TierdeckApp
    from tui.screens.arrange import Arranged


class Procedures:
    """The part of the actions that changes the world."""

    _app: TierdeckApp

    async def queue(self) -> None:
        """Arrange and plan the start queue of the selected node, ask, and run it in a process of its own."""
        app, node = self._app, node_selected(self._app)
        await asyncio.to_thread(importlib.import_module, "backends.procedures.startup")
        from tui.screens.arrange import ArrangeScreen, Startable

        found = app.dashboard.queue.startable(node)
        if not found:
            raise ProcedureError(f"{node} has nothing to queue.", "Name its containers in cluster.toml: queue.order.")
        title = f"Start queue of {node}"
        rows = [Startable(*each) for each in found]

        async def arranged(choice: Arranged | None) -> None:
            if choice is not None:
                self._confirm(node, choice)

        app.push_screen(ArrangeScreen(title, rows, app.setup.glyphs), arranged)

    async def recover(self) -> None:
        """Diagnose the selected node; show fault, evidence and plan, ask, and climb in a process of its own."""
        node = node_selected(self._app)
        self._app.say(f"{node}: looking at it from all sides{self._app.setup.glyphs.ellipsis}", "accent")
        self._app.run_worker(self._diagnose(node), group="diagnose", exclusive=True, exit_on_error=False)

    async def _diagnose(self, node: str) -> None:
        app = self._app
        planning = await asyncio.to_thread(importlib.import_module, "backends.procedures.recovery")
        try:
            diagnosis, snapshot = await app.feed.world.diagnose(node)
        except TierdeckError as error:
            app.say(str(error), "bad")
            return
        try:
            plan = planning.plan_recovery(app.setup.loaded.inventory, snapshot, diagnosis)
        except TierdeckError as error:
            rows = [line((f"{node}: {diagnosis.sentence}", "title")), line("")]
            rows += [line(f"  {c.name}: ", (c.words, "bad" if c.state == "bad" else "")) for c in diagnosis.checks]
            rows += [line(""), line((error.advice or error.message, "warn"))]
            app.push_screen(TextScreen(f"Diagnosis of {node}", lambda width: rows, app.setup.glyphs))
            return
        self._ask(plan, "Recover")

    async def reboot(self) -> None:
        """Plan the reboot of the selected node, ask, and carry it out in a process of its own."""
        node = node_selected(self._app)
        self._app.say(f"{node}: asking when it was booted{self._app.setup.glyphs.ellipsis}", "accent")
        self._app.run_worker(self._plan_reboot(node), group="diagnose", exclusive=True, exit_on_error=False)

    async def _plan_reboot(self, node: str) -> None:
        app = self._app
        await asyncio.to_thread(importlib.import_module, "backends.procedures.reboot")
        try:
            plan = await app.feed.world.plan_reboot(node)
        except TierdeckError as error:
            app.say(str(error), "bad")
            return
        self._ask(plan, "Reboot")

    def _confirm(self, node: str, choice: Arranged) -> None:
        from backends.procedures.startup import plan_queue

        app = self._app
        inventory = app.setup.loaded.inventory.with_queue_order(node, choice.names)
        try:
            plan = plan_queue(inventory, app.feed.snapshot, node, only=choice.names, restart=choice.restart)
        except TierdeckError as error:
            app.say(str(error), "bad")
            return
        self._ask(plan, "Start")

    def _ask(self, plan: Plan, verb: str) -> None:
        """Show a plan, and start it where a person says so; its node's name is typed where it interrupts work."""
        from backends.procedures.plan import Danger, describe
        from tui.screens.confirm import ConfirmScreen

        app = self._app

        def answered(yes: bool | None) -> None:
            if yes:
                app.run_worker(self._start(plan), group="start", exit_on_error=False)

        typed = plan.node if plan.danger is Danger.INTERRUPTS else None
        app.push_screen(ConfirmScreen(plan.title, describe(plan)[1:], verb, typed=typed), answered)

    async def _start(self, plan: Plan, *, take_over: bool = False) -> None:
        try:
            procedure = await self._app.feed.world.start(plan, take_over=take_over)
        except StaleLease as error:
            self._offer_take_over(plan, error)
            return
        except TierdeckError as error:
            self._app.say(str(error), "bad")
            return
        self._app.feed.nudge("procedures")
        self.attach(procedure, plan.title)

    def _offer_take_over(self, plan: Plan, error: StaleLease) -> None:
        from tui.screens.confirm import ConfirmScreen

        app = self._app

        def answered(yes: bool | None) -> None:
            if yes:
                app.run_worker(self._start(plan, take_over=True), group="start", exit_on_error=False)

        lines = [error.message, "What it was doing there may be half done: every step is checked before it is taken."]
        app.push_screen(ConfirmScreen(f"Take {plan.node} over?", lines, "Take over", typed=plan.node), answered)

    def procedures(self) -> None:
        """Attach to the procedure that is open; with none or several, list them all."""
        known = self._app.feed.snapshot.procedures
        if not known:
            raise ProcedureError("No procedure has run here yet.", "s plans a start queue.")
        now_open = [p for p in known if p.open]
        if len(now_open) == 1:
            self.attach(now_open[0].id)
            return
        self._app.push_screen(TextScreen("Procedures", self._procedure_lines, self._app.setup.glyphs))

    def _procedure_lines(self, width: int) -> Sequence[Line]:
        styles = {"done": "good", "running": "accent", "asking": "warn", "cancelled": "dim"}
        rows = []
        for p in self._app.feed.snapshot.procedures:
            started = time.strftime("%m-%d %H:%M", time.localtime(p.started))
            words = f"{started}  {p.state:<9}  {p.node}  {p.title}  by {p.owner}"
            rows.append(line((words, styles.get(p.state, "bad")), key=f"procedure:{p.id}"))
        return rows

    def attach(self, procedure: str, title: str = "") -> None:
        """Follow a procedure's journal."""
        from tui.screens.procedure import ProcedureScreen

        app, world = self._app, self._app.feed.world
        title = title or next((p.title for p in app.feed.snapshot.procedures if p.id == procedure), procedure)
        app.push_screen(
            ProcedureScreen(
                title,
                lambda: world.follow(procedure),
                world.fold_event,
                lambda word: world.control(procedure, word),
                lambda: app.feed.clock.now().wall,
                app.setup.glyphs,
                read_only=app.setup.read_only,
            )
        )
