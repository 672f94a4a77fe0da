"""The router console's work: who would answer, sending, streaming, cancelling."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from textual.worker import Worker

from backends.errors import TierdeckError
from widgets.format import model

if TYPE_CHECKING:
    from backends.routing.choose import Decision
    from backends.routing.classify import Classified
    from tui.app import TierdeckApp

DRAW_EVERY = 0.125
"""Seconds between two repaints of a streaming answer."""


class Chatting:
    """Decides, sends and streams for pane 4; one answer at a time."""

    def __init__(self, app: TierdeckApp) -> None:
        self._app = app
        self._worker: Worker[None] | None = None

    def reconsider(self) -> None:
        """Show who would answer what is typed: the text or somebody's health may have changed."""
        if self._streams and not self._app.in_past:
            return
        pane = self._app.view.router
        if not pane.is_mounted:
            return
        text = pane.prompt.text
        if not text.strip() and pane.forced is None:
            pane.hint()
            return
        classified, decision = self._decide(text)
        style = "bad" if decision.chosen is None else "accent"
        passed = [
            (f"  {c.endpoint}: {c.reason}", "dim")
            for c in decision.candidates
            if c.outcome == "passed over" and c.assigned
        ]
        pane.decide(self._words(classified, decision), style, passed)

    def _decide(self, text: str) -> tuple[Classified, Decision]:
        from backends.routing.choose import Wish, choose
        from backends.routing.classify import Classified, classify

        view = self._app.view
        forced = view.router.forced
        classified = Classified(forced, 1.0, None, ("you chose it",)) if forced else classify(text)
        return classified, choose(view.inventory, view.snapshot, Wish(classified.task))

    def _words(self, classified: Classified, decision: Decision) -> str:
        task = f"{classified.task} {classified.confidence:.2f} {self._app.setup.glyphs.arrow}"
        if decision.chosen is None:
            return f"{task} {decision.sentence}"
        models = self._app.view.snapshot.endpoints[decision.chosen].models
        named = f" {model(models[0].name)}" if models else ""
        return f"{task} {decision.chosen}{named} ({', '.join(classified.why)})"

    def send(self, text: str) -> None:
        """Send a prompt to whoever serves its task, and stream the answer."""
        classified, decision = self._decide(text)
        answer = self._app.view.router.answer
        answer.begin((f"> {text}", "title"), (self._words(classified, decision), "accent"))
        if self._app.in_past:
            answer.paragraph("the past: decided, not sent", "warn")
        elif self._app.setup.read_only:
            answer.paragraph("read-only: decided, not sent", "warn")
        elif decision.chosen is None:
            answer.paragraph("not sent", "bad")
        else:
            self.cancel()
            self._worker = self._app.run_worker(
                self._stream(decision.chosen, text), group="chat", exclusive=True, exit_on_error=False
            )

    def cancel(self) -> bool:
        """Break off a streaming answer; whether there was one."""
        if self._worker is None or not self._streams or self._app.in_past:
            return False
        self._worker.cancel()
        self._app.dashboard.router.answer.paragraph("cancelled", "warn")
        return True

    @property
    def _streams(self) -> bool:
        return self._worker is not None and self._worker.is_running

    async def _stream(self, endpoint: str, text: str) -> None:
        from backends.engines.chat import Delta, Finished

        answer = self._app.dashboard.router.answer
        waiting: list[tuple[str, str]] = []
        drawn = time.monotonic()
        try:
            async with aclosing(self._app.feed.world.chat(endpoint, text)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        waiting.append((event.text, "dim" if event.reasoning else ""))
                    elif isinstance(event, Finished):
                        self._put(waiting)
                        answer.paragraph(_figures(event), "dim")
                    if time.monotonic() - drawn >= DRAW_EVERY:
                        self._put(waiting)
                        drawn = time.monotonic()
        except TierdeckError as error:
            self._put(waiting)
            answer.paragraph(str(error), "bad")

    def _put(self, waiting: list[tuple[str, str]]) -> None:
        for text, style in waiting:
            self._app.dashboard.router.answer.put(text, style)
        waiting.clear()


def _figures(event: object) -> str:
    first = getattr(event, "first_token_s", None)
    speed = getattr(event, "tokens_per_s", None)
    tokens_in, tokens_out = getattr(event, "tokens_in", None), getattr(event, "tokens_out", None)
    words = []
    if first is not None:
        words.append(f"{first * 1000:.0f} ms to first token")
    if speed is not None:
        words.append(f"{speed:.0f} tok/s")
    if tokens_out is not None:
        words.append(f"{tokens_in if tokens_in is not None else '?'} tokens in, {tokens_out} out")
    return ", ".join(words) or "done"
