"""A prompt that only an on-demand model could answer which is off: what its start takes, a dialog, the start itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from backends.errors import TierdeckError

if TYPE_CHECKING:
    from backends.procedures.demand import ColdStart
    from backends.procedures.events import StepEvent
    from tui.app import TierdeckApp

SEEN_LIMIT: Final = 30.0
"""Seconds within which the console's own probes must have seen what the procedure found ready."""

PROBE_EVERY: Final = 0.5
"""Seconds between two of those."""


class Starting:
    """Starts what one prompt needs, in the words of pane 4."""

    def __init__(self, app: TierdeckApp) -> None:
        self._app = app

    def ask(self, endpoint: str, begin: Callable[[ColdStart], object]) -> None:
        """Say what the start takes, and `begin` it where a person confirms that."""
        from backends.procedures.plan import describe
        from tui.screens.confirm import ConfirmScreen

        feed, say = self._app.feed, self._app.dashboard.router.answer.paragraph
        try:
            cold = feed.world.cold_start(endpoint, feed.snapshot)
        except TierdeckError as error:
            say(f"not sent. {error}", "bad")
            return
        say(cold.words, "warn")

        def answered(yes: bool | None) -> None:
            if yes:
                begin(cold)
            else:
                say("nothing was started, nothing was sent", "warn")

        lines = [cold.words, *describe(cold.plan)[1:], "The prompt goes out once it is ready."]
        self._app.push_screen(ConfirmScreen(f"Start {endpoint} for this prompt?", lines, "Start"), answered)

    async def start(self, cold: ColdStart) -> bool:
        """Run its procedure to the end; whether it serves then. Broken off, only the waiting ends."""
        feed, say = self._app.feed, self._app.dashboard.router.answer.paragraph
        procedure, outcome = await feed.world.start(cold.plan), ""
        feed.nudge("procedures")
        say("Esc ends the waiting, not the start; p in another pane follows it", "dim")
        async for event in feed.world.follow(procedure):
            outcome = event.outcome or ""
            for words, style in _told(event, cold):
                say(words, style)
        if outcome != "done":
            say(f"{cold.endpoint} did not start, nothing was sent: p in another pane shows why", "bad")
        return outcome == "done" and await self._seen(cold.endpoint)

    async def _seen(self, endpoint: str) -> bool:
        """Wait until the console sees it serve, too."""
        feed = self._app.feed
        try:
            async with asyncio.timeout(SEEN_LIMIT):
                while not feed.snapshot.endpoints[endpoint].serving:
                    feed.nudge(endpoint)
                    await feed.clock.sleep(PROBE_EVERY)
        except TimeoutError:
            words = f"{endpoint} started, and is not seen to answer within {SEEN_LIMIT:.0f} s; nothing was sent"
            self._app.dashboard.router.answer.paragraph(words, "bad")
            return False
        return True


def _told(event: StepEvent, cold: ColdStart) -> list[tuple[str, str]]:
    """What pane 4 says of an event: each step as it begins, and every question."""
    if event.event == "step_started" and event.step is not None:
        return [(cold.plan.steps[event.step].label, "dim")]
    if event.event == "question":
        return [(f"{event.text} Answer it: p in another pane", "warn")]
    return []
