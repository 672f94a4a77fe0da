"""The application: composes the dashboard, runs the feed, and passes actions on. It stays small."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from backends.cluster.files import Loaded
from backends.cluster.snapshot import ClusterSnapshot
from backends.errors import TierdeckError
from backends.reloading import told
from tui.actions import ACTIONS, NAMED, PAST, Effect, allowed, shown
from tui.chatting import Chatting
from tui.commands import Commands
from tui.driver import CalmDriver
from tui.feed import Feed
from tui.rights import forbidden
from tui.screens.dashboard import DashboardScreen
from tui.screens.text import TextScreen
from tui.setup import Setup
from widgets.lines import LinePane
from widgets.router import Prompt
from widgets.tiers import STYLES


class TierdeckApp(App[None]):
    """The console of one cluster."""

    TITLE = "tierdeck"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (78, "-normal"), (120, "-wide")]  # noqa: RUF012 - App declares an instance variable
    VERTICAL_BREAKPOINTS = [(0, "-short"), (28, "-tall")]  # noqa: RUF012 - as above
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, f"do('{action.id}')", action.label, show=False, id=action.id, priority=key == "ctrl+c")
        for action in ACTIONS
        if action.id not in ("details", "palette") and action.where != PAST
        for key in action.keys
    ]

    def __init__(self, setup: Setup, feed: type[Feed] = Feed) -> None:
        super().__init__(driver_class=None if os.environ.get("TEXTUAL_DRIVER") else CalmDriver)
        self.setup = setup
        self.feed = feed(
            setup, self.publish, self.source_crashed, lambda text: self.log_event(text, "warn"), self.adopt
        )
        self.dashboard = DashboardScreen(
            setup.loaded.inventory, self.feed.snapshot, setup.marks, setup.glyphs, setup.banner
        )
        self.commands = Commands(self)
        self.chatting = Chatting(self)
        self.set_class(setup.glyphs.border == "ascii", "ascii")
        if setup.over_ssh:
            self.animation_level = "none"

    def get_default_screen(self) -> Screen[Any]:
        """The dashboard is the console's only base."""
        return self.dashboard

    @property
    def view(self) -> DashboardScreen:
        """The dashboard that is looked at: the live one, or the past above it."""
        return next((s for s in reversed(self.screen_stack) if isinstance(s, DashboardScreen)), self.dashboard)

    @property
    def in_past(self) -> bool:
        """Whether what is looked at is the past."""
        return self.view is not self.dashboard

    def on_mount(self) -> None:
        """Paint first; then open the world."""
        self.set_keymap(dict(self.setup.keys))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, signal.SIGTERM):
            loop.add_signal_handler(number, self.exit)
        self.show_keys()
        for remark in self.setup.loaded.remarks:
            self.log_event(remark, "warn")
        self.set_interval(1.0, self._tick)
        self._tick()
        self.call_after_refresh(self._open)

    def _open(self) -> None:
        if self.setup.replay is not None:
            self.run_worker(self.commands.open_history(self.setup.replay), group="past", exit_on_error=False)
            return
        self.run_worker(self._feed(), name="feed", group="feed", exclusive=True, exit_on_error=False)

    async def _feed(self) -> None:
        try:
            await self.feed.run()
        except TierdeckError as error:
            self.say(str(error), "bad")
        except Exception as error:  # the feed is ours; if it breaks, the console says so and stays
            self.source_crashed("feed", error)

    def adopt(self, loaded: Loaded) -> None:
        """Go on with a changed inventory; the snapshot that comes next is of that."""
        self.log_event(told(self.setup.loaded.inventory, loaded.inventory), "accent")
        self.setup = replace(self.setup, loaded=loaded)
        self.dashboard.adopt(loaded.inventory)
        for remark in loaded.remarks:
            self.log_event(remark, "warn")

    def publish(self, before: ClusterSnapshot, after: ClusterSnapshot) -> None:
        """Show a new snapshot, and say what changed; while the console is being closed there is nowhere to show it."""
        if not self.is_running:
            return
        from backends.cluster.changes import changes  # the first frame needs none of it

        self.dashboard.show(after)
        for change in changes(before, after):
            self.log_event(change.text, STYLES[change.word], wall=change.at.wall)
        if isinstance(self.screen, TextScreen):
            self.screen.renew()
        self.chatting.reconsider()

    def source_crashed(self, key: str, error: Exception) -> None:
        """A fault of our own in one source: said, with what to report; the rest goes on."""
        self.log_event(f"{key}: internal error: {type(error).__name__}: {error}. Please report this.", "bad")

    def log_event(self, text: str, style: str = "", *, wall: float | None = None) -> None:
        """Write a line into the event log."""
        self.dashboard.events.add(wall if wall is not None else self.feed.clock.now().wall, text, style)

    def _tick(self) -> None:
        if self.dashboard.is_active:
            self.dashboard.clock.tick(self.feed.clock.now().wall)
            self.dashboard.queue.show(self.feed.snapshot)
            self.show_keys()

    def show_keys(self) -> None:
        """Fill the footer from the registry; grey is what we have no right to do to what is selected."""
        grey = {NAMED[id].label for id in forbidden(self)}
        keyed = sorted((a for a in allowed(self.setup.read_only) if a.footer), key=lambda a: a.footer)
        overridden = self.setup.keys
        self.dashboard.keys.show([(shown(overridden.get(a.id, a.keys[0])), a.label) for a in keyed], grey)

    async def action_do(self, id: str) -> None:
        """Run an action of the registry; what goes wrong is said, and ends nothing."""
        action = NAMED[id]
        on_dashboard = self.screen is self.view
        if not on_dashboard and id not in ("detach", "help"):
            return
        if action not in allowed(False, past=self.in_past):
            words = "This is the past: nothing is asked or changed here. Esc goes back to now."
            self.say(words if self.in_past else "Only in the past (b).", "warn")
            return
        if self.setup.read_only and action.effect is Effect.CHANGES:
            self.say("This console is read-only: it changes nothing.", "warn")
            return
        if not self.in_past and (missing := forbidden(self).get(id)):
            self.say(f"{missing}. Have that right given to you in a Role.", "warn")
            return
        try:
            await self.commands.run(id)
        except TierdeckError as error:
            self.say(str(error), "bad")

    def say(self, text: str, style: str = "") -> None:
        """Tell the person: the newest event stands just above the keys, and covers nothing."""
        self.view.events.add(self.feed.clock.now().wall, text, style)

    def on_line_pane_selected(self) -> None:
        """Another line: other keys may be grey."""
        self.show_keys()

    def on_line_pane_opened(self, message: LinePane.Opened) -> None:
        """Enter on a line: its details."""
        self.commands.details(message.key)

    def on_prompt_sent(self, message: Prompt.Sent) -> None:
        """A prompt was sent."""
        self.chatting.send(message.text)

    def on_prompt_typed(self, message: Prompt.Typed) -> None:
        """A prompt is being typed: show who would answer."""
        self.chatting.reconsider()

    async def on_prompt_wanted(self, message: Prompt.Wanted) -> None:
        """A key of the prompt that is not about its text."""
        if message.what in ("bench", "compare"):
            await self.action_do(message.what)
        else:
            self.chatting.want(message.what)

    def on_prompt_left(self, message: Prompt.Left) -> None:
        """Esc in the prompt: cancel first, then leave."""
        if not self.chatting.cancel():
            self.view.go(1)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: every action, in the demo every fault, and the themes."""
        missing = {} if self.in_past else forbidden(self)
        for action in allowed(self.setup.read_only, past=self.in_past):
            if action.id != "palette":
                words = f"{action.label} ({', '.join(shown(k) for k in action.keys)})"
                told = missing.get(action.id, action.help)
                yield SystemCommand(words, told, lambda id=action.id: self.call_later(self.action_do, id))
        if not self.in_past:
            yield from self.commands.faults()
        yield SystemCommand("Theme", "Choose another theme.", self.action_change_theme)

    def on_unmount(self) -> None:
        """Nothing of ours outlives the console."""
        self.chatting.cancel()
