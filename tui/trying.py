"""What the keys of trying out do: bench an endpoint, and ask several side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backends.errors import ReachError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from backends.engines.chat import ChatEvent
    from backends.routing.choose import Candidate
    from tui.app import TierdeckApp
    from tui.chatting import Sending

MOST = 4
"""Endpoints that can be read side by side."""


class Trying:
    """The part of the actions that sends prompts beside the console's own."""

    _app: TierdeckApp

    def bench(self) -> None:
        """Open the bench of the selected endpoint, else of whoever would answer."""
        from tui.screens.bench import BenchScreen

        app = self._app
        self._may_send()
        kind, _, name = (app.dashboard.selection() or "").partition(":")
        inventory = app.setup.loaded.inventory
        engines = {e.name for e in inventory.endpoints if e.engine != "http"}
        chosen = name if kind == "endpoint" and name in engines else app.chatting.decision.chosen
        if chosen is None:
            raise ReachError("No endpoint is selected.", "Select one in pane 1, or type a prompt.")
        world, candidate = app.feed.world, self._named(chosen)

        def send(prompt: str, tokens: int) -> AsyncGenerator[ChatEvent, None]:
            return world.chat(chosen, prompt, model=candidate.model, max_tokens=tokens)

        app.push_screen(BenchScreen(candidate, send, app.setup.glyphs))

    def compare(self) -> None:
        """Ask which endpoints, and send them the prompt that is typed, side by side."""
        from tui.screens.ask import AskScreen

        app = self._app
        self._may_send()
        text = app.view.router.prompt.text.strip() or app.chatting.latest
        if not text:
            raise ReachError("There is no prompt to send.", "Type one in pane 4 first (t).")
        sending = replace(app.chatting.sending(text), turns=())
        able = [c.endpoint for c in app.chatting.decide(sending).candidates if c.outcome in ("chosen", "next")]
        names = [e.name for e in app.setup.loaded.inventory.endpoints if e.engine != "http"]

        def answered(words: str | None) -> None:
            if words is not None:
                self._compare(sending, [name.strip() for name in words.split(",") if name.strip()], names)

        prompt = f"side by side: which endpoints? ({', '.join(names)})"
        app.push_screen(AskScreen(prompt, value=", ".join(able[:2]), words=names), answered)

    def _compare(self, sending: Sending, chosen: list[str], names: list[str]) -> None:
        from tui.screens.compare import CompareScreen

        app = self._app
        unknown = [name for name in chosen if name not in names]
        if unknown:
            app.say(f'There is no endpoint "{unknown[0]}".', "warn")
            return
        if not 2 <= len(set(chosen)) <= MOST:
            app.say(f"Name two to {MOST} endpoints, with commas between.", "warn")
            return
        candidates = [self._named(name, sending) for name in dict.fromkeys(chosen)]
        answer = app.chatting.answer
        screen = CompareScreen(
            sending.text,
            candidates,
            lambda candidate: answer(sending, candidate),
            lambda reading: app.chatting.tell(sending, reading),
            app.feed.clock,
            app.setup.glyphs,
        )
        app.push_screen(screen)

    def _named(self, name: str, sending: Sending | None = None) -> Candidate:
        """An endpoint as it would be asked because a person named it."""
        from backends.routing.choose import Wish, choose

        view = self._app.view
        wish = Wish(sending.wish.task if sending else "chat", target=name)
        choice = choose(view.inventory, view.snapshot, wish).choice
        assert choice is not None
        return choice

    def _may_send(self) -> None:
        if self._app.setup.read_only:
            raise ReachError("This console is read-only: it sends nothing.", "Leave --read-only out.")
