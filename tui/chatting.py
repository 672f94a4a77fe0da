"""The router console's work: who would answer, sending, streaming, cancelling, and what is offered when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from textual.worker import Worker

from backends.errors import ChatError, ReachError, TierdeckError
from tui.choosing import Choosing
from tui.deciding import decision_rows, quoted
from tui.starting import Starting

if TYPE_CHECKING:
    from backends.asking import Answer, AskEvent
    from backends.cluster.reading import ChatReading
    from backends.engines.chat import Message
    from backends.engines.images import Image
    from backends.procedures.demand import ColdStart
    from backends.routing.choose import Candidate, Decision, Wish
    from backends.routing.classify import Classified
    from tui.app import TierdeckApp

DRAW_EVERY: Final = 0.125
"""Seconds between two repaints of a streaming answer."""

TURNS: Final = 40
"""Messages of a conversation that go with the next prompt; older ones are left out."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A prompt on its way: what goes with it, what was decided, and who failed with it already."""

    text: str
    turns: tuple[Message, ...]
    image: Image | None
    classified: Classified
    wish: Wish
    through: bool
    tried: frozenset[str] = frozenset()


class Chatting(Choosing):
    """Decides, sends and streams for pane 4; one answer at a time, and nothing is sent twice unasked."""

    def __init__(self, app: TierdeckApp) -> None:
        super().__init__(app)
        self._starting = Starting(app)
        self._worker: Worker[None] | None = None
        self._offered: Sending | None = None
        self.latest = ""
        self._turns: list[Message] = []
        self._last_task: str | None = None
        self._pace: float | None = None
        self._paces: dict[str, float] = {}
        self._last: str | None = None

    def reconsider(self) -> None:
        """Show who would answer what is typed: the text or somebody's health may have changed."""
        if self._streams and not self._app.in_past:
            return
        pane = self._app.view.router
        if not pane.is_mounted:
            return
        pane.mark(self.subtitle())
        text = pane.prompt.whole
        if not text.strip() and pane.forced is None:
            if self._offered is None:
                pane.hint()
            return
        sending = self.sending(text)
        pane.decide(decision_rows(sending.classified, self.decide(sending), self._app.setup.glyphs))

    def want(self, what: str) -> None:
        """Do what a key of the prompt wants."""
        pane = self._app.view.router
        if what == "task":
            pane.next_task()
            self.reconsider()
        elif what == "reasoning":
            pane.answer.fold()
        else:
            {"target": self.ask_target, "image": self.ask_image, "next": self.send_to_next, "anew": self.anew}[what]()

    def sending(self, text: str) -> Sending:
        """What would be sent, as things stand."""
        from backends.routing.choose import Wish
        from backends.routing.classify import Classified, classify
        from backends.routing.fitting import estimate

        forced = self._app.view.router.forced
        said = (
            Classified(forced, 1.0, None, ("you chose it",))
            if forced
            else classify(text, image=bool(self.image), last=self._last_task)
        )
        tokens = estimate("".join((*(turn.content for turn in self._turns), text)), images=int(bool(self.image)))
        wish = Wish(
            said.task, tokens, image=self.image is not None, target=self.target, last=self._last, paces=self._paces
        )
        return Sending(text, tuple(self._turns), self.image, said, wish, self.through)

    @property
    def decision(self) -> Decision:
        """Who would answer what is typed."""
        return self.decide(self.sending(self._app.view.router.prompt.whole))

    def decide(self, sending: Sending, tried: frozenset[str] = frozenset()) -> Decision:
        """Who would answer, after those that failed with it."""
        from backends.routing.choose import choose

        view = self._app.view
        return choose(view.inventory, view.snapshot, replace(sending.wish, tried=sending.tried | tried))

    def send(self, text: str) -> None:
        """Send a prompt to whoever serves its task, and stream the answer."""
        sending = self.sending(text)
        self.latest = text
        self._begin(sending)
        self.image = None
        self._app.view.router.mark(self.subtitle())

    def _begin(self, sending: Sending) -> None:
        decision = self.decide(sending)
        pane, glyphs = self._app.view.router, self._app.setup.glyphs
        rows = decision_rows(sending.classified, decision, glyphs)
        self._offered = None
        pane.hint()
        pane.answer.begin((quoted(sending.text), "title"), *rows)
        if self._app.in_past:
            pane.answer.paragraph("the past: decided, not sent", "warn")
        elif self._app.setup.read_only:
            pane.answer.paragraph("read-only: decided, not sent", "warn")
        elif decision.chosen is None:
            pane.answer.paragraph(f"not sent. {decision.advice}".rstrip(), "bad")
        elif decision.choice is not None and decision.choice.starts:
            self._starting.ask(decision.choice.endpoint, lambda cold: self._work(self._start(sending, cold)))
        else:
            self._work(self._stream(sending))

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Have one worker at a time send."""
        self.cancel()
        self._worker = self._app.run_worker(work, group="chat", exclusive=True, exit_on_error=False)

    def send_to_next(self) -> None:
        """Send what failed to the next candidate, because a person says so."""
        if self._offered is None or self._streams or self._app.in_past:
            self._app.say("There is nothing that failed and could go to another.", "warn")
        else:
            self._begin(self._offered)

    def anew(self) -> None:
        """Forget the conversation."""
        self.cancel()
        self._turns, self._last, self._last_task, self._offered = [], None, None, None
        self._app.view.router.answer.begin(("a new conversation", "dim"))
        self.reconsider()

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

    async def _start(self, sending: Sending, cold: ColdStart) -> None:
        """Start who is to answer, then send."""
        try:
            ready = await self._starting.start(cold)
        except TierdeckError as error:
            self._app.dashboard.router.answer.paragraph(f"not sent. {error}", "bad")
            return
        if ready:
            await self._stream(sending)

    async def _stream(self, sending: Sending) -> None:
        """Ask until there is an answer, or until a person has to decide."""
        from backends.asking import ask, counted

        app = self._app
        shown = _Shown(app, sending.tried)
        try:
            whole = "".join((*(turn.content for turn in sending.turns), sending.text))
            wish = await counted(app.feed.world, app.feed.snapshot, sending.wish, whole)
            sending = replace(sending, wish=wish)
            asked = ask(
                lambda tried: self.decide(sending, tried),
                lambda candidate: self.answer(sending, candidate),
                lambda reading: self.tell(sending, reading),
                app.feed.clock,
            )
            async with aclosing(asked) as events:
                async for event in events:
                    shown.take(event)
            self._keep(sending, shown)
            await self._learn()
        except TierdeckError as error:
            shown.draw()
            app.dashboard.router.answer.paragraph(str(error), "bad")
            if isinstance(error, ChatError):
                self._offer(replace(sending, tried=sending.tried | shown.asked))
        except Exception as error:  # a fault of ours: the console says so and stays
            app.source_crashed("router", error)

    async def answer(self, sending: Sending, candidate: Candidate) -> AsyncGenerator[Answer, None]:
        """What one candidate answers, directly or through the gateway."""
        from backends.engines.chat import Message

        world = self._app.feed.world
        endpoint, model = candidate.endpoint, candidate.model
        if sending.through:
            endpoint, model = await world.through_gateway(endpoint)
            self._app.dashboard.router.answer.paragraph(f"through {endpoint} as {model}", "dim")
        if sending.wish.task == "embed" and sending.image is None:
            yield await world.embed(endpoint, sending.text, model=model)
            return
        images = (sending.image,) if sending.image else ()
        messages = [*sending.turns, Message("user", sending.text, images)]
        async with aclosing(world.chat(endpoint, messages, model=model)) as events:
            async for event in events:
                yield event

    def tell(self, sending: Sending, reading: ChatReading) -> None:
        """Let what became of a prompt count: for the router, and for whoever looks at the endpoint's health."""
        gateway = self._app.setup.loaded.inventory.gateway_endpoint
        if sending.through and gateway is not None:
            reading = replace(reading, endpoint=gateway.name)
        self._pace = reading.tokens_per_s
        self._app.feed.live.emit(reading)
        if reading.evidence:
            self._app.feed.nudge(reading.endpoint)

    def _keep(self, sending: Sending, shown: _Shown) -> None:
        """Remember the turn, and who answered it."""
        from backends.engines.chat import Message

        self._last, self._last_task = shown.endpoint, sending.wish.task
        if shown.text:
            said = [Message("user", sending.text), Message("assistant", shown.text)]
            self._turns = [*self._turns, *said][-TURNS:]

    async def _learn(self) -> None:
        """Keep how fast the latest answer was."""
        if self._last and self._pace and not self.through:
            with suppress(OSError):  # a full disk costs a figure, not the answer
                await asyncio.to_thread(self._app.feed.world.paces.learn, self._last, self._pace)

    async def know(self) -> None:
        """Read how fast each endpoint was before, as soon as there is a world to ask."""
        with suppress(ReachError):  # it is still opening; the person's order holds until the next time
            self._paces = await asyncio.to_thread(self._app.feed.world.paces.read)
            self.reconsider()

    def _offer(self, failed: Sending) -> None:
        """Name who could be asked next, without asking."""
        failed = replace(failed, wish=replace(failed.wish, target=None))
        choice = self.decide(failed).choice
        answer = self._app.dashboard.router.answer
        if choice is None:
            answer.paragraph(self.decide(failed).sentence, "warn")
            return
        self._offered = failed
        answer.paragraph(
            f"Ctrl+N sends it to {choice.endpoint} ({choice.reason}). Nothing is sent twice unasked.", "warn"
        )


class _Shown:
    """What is shown of an answer, some times a second."""

    def __init__(self, app: TierdeckApp, tried: frozenset[str]) -> None:
        self._app = app
        self._tried = tried
        self._answer = app.dashboard.router.answer
        self._waiting: list[tuple[str, bool]] = []
        self._said: list[str] = []
        self._drawn = time.monotonic()
        self.asked: frozenset[str] = frozenset()
        self.endpoint: str | None = None

    @property
    def text(self) -> str:
        """The answer without its reasoning."""
        return "".join(self._said)

    def take(self, event: AskEvent) -> None:
        """Show one event."""
        from backends.asking import Asking, Unreached
        from backends.engines.chat import Delta, Finished
        from backends.engines.embed import Embedded

        if isinstance(event, Asking):
            self.endpoint = event.candidate.endpoint
            self.asked |= {self.endpoint}
            if event.candidate.cold:
                self._answer.paragraph(f"{self.endpoint}: {event.candidate.reason}", "warn")
        elif isinstance(event, Unreached):
            self._answer.paragraph(
                f"{event.endpoint}: {event.error.message} Nothing was sent; asking the next.", "warn"
            )
        elif isinstance(event, Delta):
            self._waiting.append((event.text, event.reasoning))
            if not event.reasoning:
                self._said.append(event.text)
            if time.monotonic() - self._drawn >= DRAW_EVERY:
                self.draw()
        elif isinstance(event, Finished):
            self.draw()
            cut = "; cut at its limit" if event.reason == "length" else ""
            self._answer.paragraph(f"{self.endpoint}: {event.words}, {self._tries}{cut}", "dim")
        elif isinstance(event, Embedded):
            read = "" if event.tokens_in is None else f", {event.tokens_in} tokens in"
            words = f"{event.dimensions} dimensions in {event.seconds * 1000:.0f} ms{read}, {self._tries}"
            self._answer.paragraph(f"{self.endpoint}: {words}", "dim")

    @property
    def _tries(self) -> str:
        failed = sorted((self._tried | self.asked) - {self.endpoint})
        return f"{len(failed) + 1} tries ({', '.join(failed)} failed)" if failed else "1 try"

    def draw(self) -> None:
        """Show what waits."""
        if self._waiting:
            self._answer.put(self._waiting)
            self._waiting.clear()
        self._drawn = time.monotonic()
