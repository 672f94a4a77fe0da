"""Asks whom the router chose, and goes on to the next only where the prompt cannot have reached anybody."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from backends.clock import Clock
from backends.cluster.inventory import Inventory
from backends.cluster.reading import ChatReading
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.engines.chat import ChatEvent, Finished
from backends.engines.embed import Embedded
from backends.engines.tokens import TOKENIZERS
from backends.errors import ChatError
from backends.routing.choose import Candidate, Decision, Wish
from backends.routing.fitting import context_of, uncertain
from backends.routing.models import is_cold, model_for
from backends.world import World

RETRIES: Final = 2
"""How often another endpoint is asked by itself, as LiteLLM does it; and only where nothing was sent."""


@dataclass(frozen=True, slots=True)
class Asking:
    """This endpoint is asked now; `reason` says why it."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Unreached:
    """This endpoint could not be reached, nothing was sent, and another is asked instead."""

    endpoint: str
    error: ChatError


Answer = ChatEvent | Embedded
AskEvent = Asking | Unreached | Answer


async def ask(
    decide: Callable[[frozenset[str]], Decision],
    send: Callable[[Candidate], AsyncGenerator[Answer, None]],
    tell: Callable[[ChatReading], object],
    clock: Clock,
) -> AsyncGenerator[AskEvent, None]:
    """The answer of whom `decide` chooses, after those it is given failed; every outcome is told as a reading.

    Raises ChatError where nobody can serve, and where an answer failed after the prompt may have reached an engine:
    then a person decides whether to send it again. Nor is anybody asked instead who would have to be started for it.
    """
    tried: frozenset[str] = frozenset()
    while True:
        decision = decide(tried)
        chosen = decision.choice
        if chosen is None:
            raise ChatError(f"{decision.sentence[0].upper()}{decision.sentence[1:]}.", decision.advice, sent=False)
        yield Asking(chosen)
        try:
            async with aclosing(send(chosen)) as events:
                async for event in events:
                    if isinstance(event, Finished | Embedded):
                        tell(answered(chosen.endpoint, event, clock))
                    yield event
            return
        except ChatError as error:
            tell(unanswered(chosen.endpoint, error, clock))
            tried |= {chosen.endpoint}
            following = decide(tried).choice
            if error.sent or len(tried) > RETRIES or following is None or following.starts:
                raise
            if following.endpoint == chosen.endpoint:
                raise
            yield Unreached(chosen.endpoint, error)


def answered(endpoint: str, event: Finished | Embedded, clock: Clock) -> ChatReading:
    """What a whole answer tells of its endpoint."""
    if isinstance(event, Embedded):
        return ChatReading(endpoint, clock.now())
    return ChatReading(endpoint, clock.now(), tokens_per_s=event.tokens_per_s, first_s=event.first_token_s)


def unanswered(endpoint: str, error: ChatError, clock: Clock) -> ChatReading:
    """What a failed one tells."""
    cause = Cause(error.cause) if error.cause else Cause.BAD_RESPONSE
    return ChatReading(endpoint, clock.now(), cause, error.message.rstrip("."), error.retry_after)


async def counted(world: World, snapshot: ClusterSnapshot, wish: Wish, text: str) -> Wish:
    """The wish with the tokens of `text` counted wherever only that can tell whether it fits.

    Nobody is woken for it: only engines that are awake, with the model loaded, are asked.
    """
    names = (wish.target,) if wish.target else world.inventory.chain("vision" if wish.image else wish.task)
    asked = [each for name in names if (each := _counts(world.inventory, snapshot, wish, name, text))]
    return replace(wish, counted=await world.count_tokens(text, asked)) if asked else wish


def _counts(
    inventory: Inventory, snapshot: ClusterSnapshot, wish: Wish, name: str, text: str
) -> tuple[str, str | None] | None:
    endpoint, state = inventory.endpoint_named[name], snapshot.endpoints[name]
    model = model_for(endpoint, state, wish.task, wish.model)
    if endpoint.engine not in TOKENIZERS or not state.serving or is_cold(state, model):
        return None
    return (name, model.name if model else None) if uncertain(text, context_of(inventory, model)) else None
