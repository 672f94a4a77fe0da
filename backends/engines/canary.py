"""One token, asked for where the inventory allows it and only of a model that is loaded already."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Final

from backends.cluster.engines import ENGINES, EngineName
from backends.cluster.reading import ProbeResult
from backends.cluster.words import Cause
from backends.engines.chat import Finished, Message, Patience, Started, chat
from backends.engines.http import Http
from backends.engines.target import Target
from backends.errors import ChatError

LIMIT: Final = 10.0
"""Seconds one token may take at least, of a model that is loaded and has nothing else to do."""


def loaded_model(engine: EngineName, found: ProbeResult) -> str | None:
    """A model that can be asked without loading or waking anything, nor queueing behind other work; None if none can.

    Where there is work, the token counters tell more than one token would.
    """
    if found.cause is not Cause.OK or (found.progress is not None and found.progress.works):
        return None
    return next(
        (m.name for m in found.models or () if m.loaded or (m.loaded is None and ENGINES[engine].always_loaded)), None
    )


async def one_token(http: Http, target: Target, model: str) -> str:
    """Ask for one token; why none came, or ""."""
    limit = max(LIMIT, target.timeout)
    asked = chat(http, target, [Message("user", "1")], model=model, max_tokens=1, patience=Patience(limit, limit))
    try:
        async with aclosing(asked) as events:
            async for event in events:
                if isinstance(event, Finished) and event.tokens_out == 0:
                    return f"{model} was asked for one token and gave none"
                if not isinstance(event, Started):
                    return ""
    except ChatError as error:
        return f"{model} was asked for one token: {error.message}"
    return f"{model} was asked for one token and said nothing"


def muted(found: ProbeResult, why: str) -> ProbeResult:
    """What says that it is well, and gives no token: STALLED."""
    return replace(found, cause=Cause.STALLED, evidence=why) if why and found.cause is Cause.OK else found
