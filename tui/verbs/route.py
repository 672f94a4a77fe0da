"""`tierdeck route`: who would answer a prompt and why; with --send the answer itself."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backends.errors import ChatError, InventoryError
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from backends.asking import Answer, AskEvent
    from backends.cluster.reading import ChatReading
    from backends.cluster.snapshot import ClusterSnapshot
    from backends.engines.images import Image
    from backends.routing.choose import Candidate, Decision, Wish
    from backends.routing.classify import Classified
    from backends.world import World

LONGEST: Final = 16 * 2**20
"""Bytes of a prompt taken from standard input."""


def run(arguments: argparse.Namespace) -> int:
    """Decide, and send if asked to; exit 3 when nobody can serve."""
    if arguments.prompt[:1] == ["bench"] and len(arguments.prompt) <= 2:
        from tui.verbs.bench import run as bench

        return bench(arguments)
    if arguments.concurrency is not None:
        raise InventoryError("--concurrency belongs to a bench:", "tierdeck route bench ENDPOINT --concurrency 1,2,4.")
    text = _text(arguments.prompt)
    image = None
    if arguments.image is not None:
        from backends.engines.images import read_image

        image = read_image(Path(arguments.image))
    opened = open_cluster(arguments)
    if arguments.target is not None:
        known_endpoint(opened, arguments.target)
    return asyncio.run(_route(opened, arguments, text, image))


def known_endpoint(opened: Opened, name: str) -> None:
    """InventoryError where the inventory has no such endpoint."""
    names = [e.name for e in opened.loaded.inventory.endpoints]
    if name not in names:
        raise InventoryError(f'There is no endpoint "{name}".', f"Known: {', '.join(names) or 'none'}.")


def _text(words: list[str]) -> str:
    text = " ".join(words)
    if words == ["-"]:
        data = sys.stdin.buffer.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise InventoryError(f"The prompt has more than {LONGEST // 2**20} MiB.", "No model reads that much.")
        text = data.decode("utf-8", "replace")
    if not text.strip():
        raise InventoryError("There is no prompt.", 'tierdeck route "PROMPT", or - to read it from standard input.')
    return text


async def _route(opened: Opened, arguments: argparse.Namespace, text: str, image: Image | None) -> int:
    from backends.asking import counted
    from backends.routing.choose import Wish
    from backends.routing.classify import Classified, classify
    from backends.routing.fitting import estimate
    from backends.world import World

    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        snapshot = await world.look()
        task = arguments.task
        said = Classified(task, 1.0, None, ("you chose it",)) if task else classify(text, image=image is not None)
        wish = Wish(
            said.task,
            tokens=estimate(text, images=int(image is not None)),
            image=image is not None,
            target=arguments.target,
            model=arguments.model,
            paces=world.paces.read(),
        )
        wish = await counted(world, snapshot, wish, text)
        return await _Routing(world, snapshot, said, wish, arguments, text, image).run()


@dataclass
class _Routing:
    """One prompt on its way: decided, told, and if that was asked for, sent."""

    world: World
    snapshot: ClusterSnapshot
    classified: Classified
    wish: Wish
    arguments: argparse.Namespace
    text: str
    image: Image | None
    tries: list[dict[str, str]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    figures: str = ""

    @property
    def as_json(self) -> bool:
        return getattr(self.arguments, "json", False)

    def decide(self, tried: frozenset[str] = frozenset()) -> Decision:
        """Who answers, after those that were tried."""
        from backends.routing.choose import choose

        return choose(self.world.inventory, self.snapshot, replace(self.wish, tried=tried))

    async def run(self) -> int:
        """Tell the decision; send where that was asked for."""
        decision = self.decide()
        read_only = getattr(self.arguments, "read_only", False)
        sends = self.arguments.send and not read_only
        data = self.told(decision)
        if not self.as_json:
            print("\n".join(self.lines(decision)), file=sys.stderr if sends else sys.stdout)
        if self.arguments.send and read_only:
            print("tierdeck: read-only: decided, not sent.", file=sys.stderr)
        error: ChatError | None = None
        try:
            await self.ready(decision, data, sends=sends)
        except ChatError as failure:
            error = failure
        else:
            error = await self.send(data) if sends else None
        if error is not None:
            data["error"] = {"message": error.message, "advice": error.advice, "next": self.next_after(decision)}
        if self.as_json:
            print(json.dumps(data, ensure_ascii=False))
        return 0 if error is None else self.failed(error, decision)

    async def ready(self, decision: Decision, data: dict[str, Any], *, sends: bool) -> None:
        """Tell what a start would take where who was chosen is off, and where it sends have it started.

        ChatError where nobody can serve, or it is not started.
        """
        choice = decision.choice
        if choice is None:
            sentence = f"{decision.sentence[0].upper()}{decision.sentence[1:]}."
            raise ChatError(sentence, decision.advice, sent=False)
        if not choice.starts:
            return
        from tui.verbs.coldstart import cold_start, warmed

        cold = cold_start(self.world, self.snapshot, choice.endpoint)
        data["starts"] = {"seconds": cold.seconds, "stops": list(cold.stops)}
        self.narrate(cold.words)
        if sends:
            self.snapshot = await warmed(self.world, cold, self.arguments)

    def failed(self, error: ChatError, decision: Decision) -> int:
        """Say what happened and who could be asked next; 3 where nobody was reached, else 1."""
        offered = self.next_after(decision)
        words = f" Nothing is sent twice unasked; next would be: --target {offered}" if offered else ""
        print(f"tierdeck: {error}{words}", file=sys.stderr)
        return 3 if not error.sent else 1

    def next_after(self, decision: Decision) -> str | None:
        """Who would be asked next, after all that failed."""
        tried = frozenset(each["endpoint"] for each in self.tries)
        if decision.chosen is None or not tried:
            return None
        from backends.routing.choose import choose

        return choose(self.world.inventory, self.snapshot, replace(self.wish, target=None, tried=tried)).chosen

    async def send(self, data: dict[str, Any]) -> ChatError | None:
        """Ask for the answer and print it as it comes; the error that ended it."""
        from backends.asking import ask
        from backends.clock import SystemClock

        error: ChatError | None = None
        try:
            async with aclosing(ask(self.decide, self.answer, self.tell, SystemClock())) as events:
                async for event in events:
                    self.take(event, data)
        except ChatError as failure:
            error = failure
        if self.parts:
            data["answer"] = "".join(self.parts)
            if not self.as_json:
                print(flush=True)
        if self.figures and not self.as_json:
            self.narrate(self.figures)
        data["tries"] = self.tries
        return error

    async def answer(self, candidate: Candidate) -> AsyncGenerator[Answer, None]:
        """What one candidate answers, directly or through the gateway."""
        from backends.engines.chat import Message

        endpoint, model = candidate.endpoint, candidate.model
        if self.arguments.gateway:
            endpoint, model = await self.world.through_gateway(endpoint)
            self.narrate(f"through {endpoint} as {model}")
        if self.wish.task == "embed" and not self.wish.image:
            yield await self.world.embed(endpoint, self.text, model=model)
            return
        images = (self.image,) if self.image else ()
        answer = self.world.chat(endpoint, [Message("user", self.text, images)], model=model)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    def take(self, event: AskEvent, data: dict[str, Any]) -> None:
        """Print what came, and keep it for the JSON."""
        from backends.asking import Asking, Unreached
        from backends.engines.chat import Delta, Finished
        from backends.engines.embed import Embedded

        if isinstance(event, Asking):
            self.tries.append({"endpoint": event.candidate.endpoint, "error": ""})
        elif isinstance(event, Unreached):
            self.tries[-1]["error"] = event.error.message
            self.narrate(f"{event.endpoint}: {event.error.message} Nothing was sent; asking the next.")
        elif isinstance(event, Delta) and not event.reasoning:
            self.parts.append(event.text)
            if not self.as_json:
                print(event.text, end="", flush=True)
        elif isinstance(event, Finished):
            data["first_token_s"], data["tokens_per_s"] = event.first_token_s, event.tokens_per_s
            data["tokens_in"], data["tokens_out"] = event.tokens_in, event.tokens_out
            self.figures = event.words
        elif isinstance(event, Embedded):
            data["dimensions"], data["tokens_in"] = event.dimensions, event.tokens_in
            if not self.as_json:
                print(f"{event.dimensions} dimensions")

    def tell(self, reading: ChatReading) -> None:
        """Let what became of a try count for the next."""
        from backends.cluster.fold import fold

        gateway = self.world.inventory.gateway_endpoint
        if self.arguments.gateway and gateway is not None:
            reading = replace(reading, endpoint=gateway.name)
        self.snapshot = fold(self.world.inventory, self.snapshot, reading)
        if reading.tokens_per_s:
            with suppress(OSError):  # a full disk costs a figure, not the answer
                self.world.paces.learn(reading.endpoint, reading.tokens_per_s)
        if reading.evidence and self.tries:
            self.tries[-1]["error"] = reading.evidence

    def narrate(self, words: str) -> None:
        """Say something beside the data."""
        print(f"tierdeck: {words}", file=sys.stderr)

    def lines(self, decision: Decision) -> list[str]:
        """The decision for a person: the task and why, who answers, and each candidate with its reason."""
        said = self.classified
        second = f"; else {said.runner_up}" if said.runner_up else ""
        choice = decision.choice
        named = decision.sentence if choice is None else f"{choice.endpoint} {choice.model or ''}".rstrip()
        rows = [f"{decision.task} {said.confidence:.2f} ({', '.join(said.why)}{second}) -> {named}"]
        shown = [c for c in decision.candidates if c.assigned or c is choice]
        width = max((len(c.endpoint) for c in shown), default=0)
        rows += [f"  {c.endpoint:<{width}}  {c.outcome:<11}  {c.reason}" for c in shown]
        others = [c.endpoint for c in decision.candidates if not c.assigned and c is not choice]
        more = f" and {len(others) - 8} more" if len(others) > 8 else ""
        return [*rows, f"  not for {decision.task}: {', '.join(others[:8])}{more}"] if others else rows

    def told(self, decision: Decision) -> dict[str, Any]:
        """The decision as JSON data."""
        choice, chosen = decision.choice, None
        if choice is not None:
            url = self.world.inventory.endpoint_named[choice.endpoint].url
            chosen = {"endpoint": choice.endpoint, "model": choice.model, "url": url}
        return {
            "schema": "tierdeck.route/1",
            "task": decision.task,
            "confidence": self.classified.confidence,
            "runner_up": self.classified.runner_up,
            "why": list(self.classified.why),
            "chosen": chosen,
            "wakes": decision.wakes,
            "starts": None,
            "candidates": [
                {"endpoint": c.endpoint, "outcome": c.outcome, "reason": c.reason} for c in decision.candidates
            ],
        }
