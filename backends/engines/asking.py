"""One question to a model: does it answer at all. It may be loaded for it, so only procedures ask."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from backends.engines.ask import parsed
from backends.engines.chat import Delta, Finished, Message, Patience, chat
from backends.engines.embed import embed
from backends.engines.http import Http
from backends.engines.models import ModelList
from backends.engines.refusals import message
from backends.engines.target import ProbeFailure, Target
from backends.errors import ChatError, ReachError

PATIENCE: Final = Patience(first=120.0, next=30.0)
"""A model may have to be loaded first."""


async def listed(http: Http, target: Target) -> tuple[str, ...]:
    """The models that an engine or gateway names; ReachError where it does not say."""
    try:
        answer = await http.get(
            f"{target.url}/v1/models", headers=target.headers, timeout=max(10.0, target.timeout), via=target.via
        )
    except ProbeFailure as failure:
        raise ReachError(f"/v1/models: {failure.evidence}.") from None
    found = parsed(answer, ModelList) if answer.status == 200 else None
    if found is None:
        raise ReachError(f"/v1/models answered {answer.status}: {target.without_key(message(answer))}.")
    return tuple(model.id for model in found.entries)


async def answered(http: Http, target: Target, model: str, *, embeds: bool = False) -> str:
    """Ask a model for a token, or a vector; why none came, or ""."""
    try:
        if embeds:
            await embed(http, target, "yes", model=model)
            return ""
        asked = chat(http, target, [Message("user", "Say yes.")], model=model, max_tokens=4, patience=PATIENCE)
        async with aclosing(asked) as events:
            async for event in events:
                if isinstance(event, Delta | Finished):
                    return ""
    except ChatError as error:
        return error.message.rstrip(".")
    return "it ended its answer without a word"
