"""The past: the dashboard as it was at a recorded change, and the way from change to change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import TextArea

from backends.errors import TierdeckError
from backends.history.timeline import Timeline
from tui.actions import PAST, allowed, shown
from tui.screens.dashboard import DashboardScreen
from widgets.format import age
from widgets.tiers import STYLES

if TYPE_CHECKING:
    from backends.history.recording import Past
    from tui.app import TierdeckApp


class HistoryScreen(DashboardScreen):
    """Shows the panes at one moment of a timeline; nothing that changes the world is reached from here."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, f"past('{action.id}')", action.label, show=False, id=action.id, priority=True)
        for action in allowed(True, past=True)
        if action.where == PAST
        for key in action.keys
    ]

    def __init__(self, app: TierdeckApp, timeline: Timeline, past: Past) -> None:
        setup = app.setup
        super().__init__(past.inventory, past.snapshot, setup.marks, setup.glyphs)
        self._owner = app
        self._timeline = timeline
        self._past = past
        self._reading = asyncio.Lock()
        self._handed_on = False

    def on_mount(self) -> None:
        """Begin where the timeline stands."""
        overridden = self._owner.setup.keys
        keyed = sorted((a for a in allowed(True, past=True) if a.footer), key=lambda a: (a.where != PAST, a.footer))
        self.keys.show([(shown(overridden.get(a.id, a.keys[0])), a.label) for a in keyed])
        self._draw(self._past)
        self.set_interval(30.0, self._mark)

    def on_unmount(self) -> None:
        """Close the recording, unless another screen goes on with it."""
        if not self._handed_on:
            self._timeline.close()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a text field the keys of the past are text."""
        return not (action == "past" and isinstance(self.focused, TextArea))

    async def action_past(self, id: str) -> None:
        """Run one of the actions that are only here."""
        await self._owner.action_do(id)

    def go_to(self, step: int, *, changes: bool = False) -> None:
        """Move through the timeline, and show the cluster as it was there."""
        if self._timeline.move(step, changes=changes):
            self._mark()
            self.run_worker(self._read(), group="past", exclusive=True, exit_on_error=False)
        else:
            words = "nothing later is recorded; Esc goes back to now" if step > 0 else "nothing earlier is recorded"
            self._owner.say(words, "dim")

    async def _read(self) -> None:
        try:
            async with self._reading:
                past = await asyncio.to_thread(self._timeline.past)
        except TierdeckError as error:
            self._tell()
            self._owner.say(str(error), "bad")
            return
        if past.inventory == self.inventory:
            self._draw(past)
        else:  # another inventory was right then, so the panes are others, too
            self._handed_on = True
            self._owner.switch_screen(HistoryScreen(self._owner, self._timeline, past))

    def _draw(self, past: Past) -> None:
        self._mark()
        self.show(past.snapshot)
        self._tell()
        self._owner.chatting.reconsider()

    def _tell(self) -> None:
        told = self._timeline.told(self.events.KEEP)
        self.events.fill([(m.at, m.text, STYLES.get(m.word, "")) for m in told])

    def _mark(self) -> None:
        """Say in the header how far back this is, and which change of how many."""
        at = self._timeline.here.at
        ago = age(max(0.0, self._owner.feed.clock.now().wall - at))
        place = f"{self._timeline.index + 1}/{len(self._timeline.stops)}"
        self.header.mark((*self._owner.setup.marks, f"PAST -{ago}", place))
        self.clock.tick(at)
