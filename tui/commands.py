"""What each action does: one method an action, named as in the registry."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Iterable
from functools import partial

from textual.app import SystemCommand

from backends.errors import TierdeckError
from tui.actions import NAMED, allowed
from tui.deploying import Deploying
from tui.fronting import Fronting
from tui.rights import forbidden
from tui.screens.text import TextScreen
from tui.selection import container_selected, node_or_none
from tui.setup import Breakable, Demo
from tui.travel import Travel
from tui.trying import Trying


class Commands(Travel, Deploying, Fronting, Trying):
    """Runs actions for the application."""

    async def run(self, id: str) -> None:
        """Run the action of that name."""
        method = getattr(self, id)
        result = method()
        if asyncio.iscoroutine(result):
            await result

    def pane_1(self) -> None:
        """Go to the tiers."""
        self._app.view.go(1)

    def pane_2(self) -> None:
        """Go to the GPUs."""
        self._app.view.go(2)

    def pane_3(self) -> None:
        """Go to the start queue."""
        self._app.view.go(3)

    def pane_4(self) -> None:
        """Go to the router."""
        self._app.view.go(4)
        self._app.chatting.reconsider()
        self._app.run_worker(self._app.chatting.know(), group="paces", exclusive=True, exit_on_error=False)

    def zoom(self) -> None:
        """Zoom the focused pane, or share the room again."""
        self._app.view.toggle_zoom()

    def details(self, key: str | None = None) -> None:
        """Open the details of a line."""
        from tui.details import details

        app = self._app
        view, key = app.view, key or app.view.selection()
        if key is None:
            return
        if key.startswith("procedure:"):
            if not app.in_past:
                self.attach(key.partition(":")[2])
            return
        title = key.partition(":")[2]
        app.push_screen(
            TextScreen(
                title,
                lambda width: details(view.inventory, view.snapshot, key, width, app.setup.glyphs),
                app.setup.glyphs,
            )
        )

    def probe(self) -> None:
        """Probe what is selected now."""
        topic = (self._app.dashboard.selection() or "").partition(":")[2]
        topics = [e.name for e in self._app.setup.loaded.inventory.endpoints_of.get(topic, ())] or [
            topic.partition("/")[0] if topic not in self._app.setup.loaded.inventory.endpoint_named else topic
        ]
        count = sum(self._app.feed.nudge(each) for each in topics)
        self._app.log_event(f"probing {topic}: {count} sources asked", "dim")

    def probe_all(self) -> None:
        """Probe everything now."""
        self._app.log_event(f"probing everything: {self._app.feed.nudge(None)} sources asked", "dim")

    def maintenance(self) -> None:
        """Ask how long the selected endpoint or node is to be left alone."""
        from tui.screens.ask import AskScreen

        app = self._app
        name = (app.dashboard.selection() or "").partition(":")[2].partition("/")[0]
        inventory, selected = app.setup.loaded.inventory, (app.dashboard.selection() or "").partition(":")[2]
        name = selected if selected in inventory.endpoint_named else name
        if name not in inventory.endpoint_named and name not in inventory.node_named:
            raise TierdeckError("No endpoint or node is selected.", "Select one in pane 1 or 2 first.")

        def answered(words: str | None) -> None:
            if words:
                self._maintain(name, words.strip())

        app.push_screen(AskScreen(f"maintenance of {name}: for how long? (45m, 2h, 1d, end)", words=("end",)), answered)

    def _maintain(self, name: str, words: str) -> None:
        from backends.maintenance import lasting

        kept, now = self._app.feed.world.maintenance, self._app.feed.clock.now().wall
        try:
            if words == "end":
                said = "ended" if kept.end(name, now) else "was not under maintenance"
            else:
                until = now + lasting(words)
                kept.begin(name, until, now)
                said = f"under maintenance until {time.strftime('%m-%d %H:%M', time.localtime(until))}"
        except TierdeckError as error:
            self._app.say(str(error), "bad")
            return
        self._app.say(f"{name}: {said}", "warn")
        self._app.feed.nudge("maintenance")

    def events(self) -> None:
        """The whole event log."""
        log = self._app.view.events
        self._app.push_screen(TextScreen("Events", lambda width: log.lines, self._app.setup.glyphs, at_end=True))

    def filter(self) -> None:
        """Ask for the words to show."""
        from tui.screens.ask import AskScreen

        dashboard = self._app.view
        before = dashboard.tiers.filter

        def done(words: str | None) -> None:
            dashboard.set_filter(before if words is None else words)

        self._app.push_screen(AskScreen("show only lines with", value=before, live=dashboard.set_filter), done)

    def command(self) -> None:
        """Ask for the name of an action, and run it."""
        from tui.screens.ask import AskScreen

        known = allowed(self._app.setup.read_only, past=self._app.in_past)
        names = [a.id.replace("_", "-") for a in known if a.id != "command"]

        async def done(words: str | None) -> None:
            name = (words or "").strip().replace("-", "_")
            if name in NAMED:
                await self._app.action_do(name)
            elif name:
                self._app.say(f"There is no action {words}. The palette (Ctrl+P) lists them all.", "warn")

        self._app.push_screen(AskScreen("action", words=names), done)

    def palette(self) -> None:
        """Search everything."""
        self._app.action_command_palette()

    def help(self) -> None:
        """The keys of where one is."""
        from tui.helping import help_page

        setup, past = self._app.setup, self._app.in_past
        missing = {} if past else forbidden(self._app)
        page = TextScreen("Help", lambda width: help_page(setup, width, past=past, missing=missing), setup.glyphs)
        self._app.push_screen(page)

    def detach(self) -> None:
        """Close the console."""
        self._app.exit()

    async def fit(self) -> None:
        """Try what fits on the selected node: its own models first, those it holds marked."""
        app = self._app
        screen = await asyncio.to_thread(importlib.import_module, "tui.screens.fit")
        from tui.fitting import candidates, places

        inventory, snapshot = app.setup.loaded.inventory, app.feed.snapshot
        world = app.feed.world
        found = places(inventory, snapshot, node_or_none(self._app), world.figures.driver)
        if not found:
            raise TierdeckError("No node has a GPU of a known size.", "Say it as vram in cluster.toml.")
        models = candidates(inventory, snapshot, found[0].node)
        if not models:
            raise TierdeckError("No model is known.", "Name some in cluster.toml: [[models]].")
        deploy = None if app.setup.read_only else self.deploy_fitted
        app.push_screen(screen.FitScreen(found, models, world.find_model, app.setup.glyphs, deploy))

    def models(self) -> None:
        """Every model of the cluster."""
        from tui.models import models_page

        app = self._app
        inventory = app.setup.loaded.inventory
        page = TextScreen("Models", lambda width: models_page(inventory, app.feed.snapshot, width), app.setup.glyphs)
        app.push_screen(page)

    def output(self) -> None:
        """Follow the log of the selected container."""
        from tui.screens.output import OutputScreen

        node, container = container_selected(self._app)
        world = self._app.feed.world
        title = f"{node}/{container}"
        self._app.push_screen(OutputScreen(title, lambda: world.logs(node, container), self._app.setup.glyphs))

    def faults(self) -> Iterable[SystemCommand]:
        """In the demo: everything that can be broken, and one command that heals it all."""
        demo = self._app.setup.demo
        if demo is None:
            return
        for fault in demo.faults:
            yield SystemCommand(f"Break: {fault.label}", "Only in the demo.", partial(self._break, demo, fault))
        yield SystemCommand("Heal everything", "Only in the demo.", partial(self._heal, demo))

    async def _break(self, demo: Demo, fault: Breakable) -> None:
        await demo.inflict(fault.id)
        self._app.log_event(f"broken: {fault.label}", "warn")

    async def _heal(self, demo: Demo) -> None:
        await demo.heal_all()
        self._app.log_event("everything healed", "good")
