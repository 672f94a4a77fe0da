"""What the keys of history do: into the past, through it, and back to now."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import TierdeckError

if TYPE_CHECKING:
    from backends.history.recording import Past
    from backends.history.timeline import Timeline
    from tui.app import TierdeckApp


class Travel:
    """The part of the actions that moves in time."""

    def __init__(self, app: TierdeckApp) -> None:
        self._app = app

    async def history(self) -> None:
        """Go back to the latest change that is recorded."""
        app = self._app
        store = await asyncio.to_thread(importlib.import_module, "backends.history.store")
        loaded = app.setup.loaded
        await self.open_history(store.history_path(app.setup.state_dir, loaded.inventory.name, loaded.path))

    async def open_history(self, path: Path) -> None:
        """Show what is recorded in a file."""
        app = self._app
        try:
            timeline, past = await asyncio.to_thread(_timeline, path)
        except TierdeckError as error:
            app.say(str(error), "bad")
            return
        from tui.screens.history import HistoryScreen

        await app.push_screen(HistoryScreen(app, timeline, past))

    def earlier(self) -> None:
        """One change or step back."""
        self._move(-1)

    def later(self) -> None:
        """One change or step on."""
        self._move(1)

    def previous_change(self) -> None:
        """The change before."""
        self._move(-1, changes=True)

    def next_change(self) -> None:
        """The next change."""
        self._move(1, changes=True)

    def _move(self, step: int, *, changes: bool = False) -> None:
        from tui.screens.history import HistoryScreen

        if isinstance(view := self._app.view, HistoryScreen):
            view.go_to(step, changes=changes)

    def now(self) -> None:
        """Back to the live cluster."""
        if self._app.setup.replay is None:
            self._app.pop_screen()
        else:
            self._app.say("This is a recording: there is no now. q leaves.", "dim")


def _timeline(path: Path) -> tuple[Timeline, Past]:
    """A timeline at its latest change, and the cluster there; blocks."""
    from backends.history.recording import Recording
    from backends.history.timeline import Timeline

    timeline = Timeline(Recording(path))
    try:
        return timeline, timeline.past()
    except BaseException:
        timeline.close()
        raise
