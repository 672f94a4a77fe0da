"""An embedding from any engine, through the one route that all of them have: /v1/embeddings."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from backends.cluster.words import Cause
from backends.engines.answers import error_words
from backends.engines.ask import parsed
from backends.engines.chat import refused
from backends.engines.http import Http
from backends.engines.models import Count, Maybe
from backends.engines.target import MIB, ProbeFailure, Target
from backends.errors import ChatError

ROUTE: Final = "/v1/embeddings"

PATIENCE: Final = 120.0
"""Seconds it may take: a model may have to be loaded first."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text as a vector: how many numbers it has, the tokens read, and the seconds it took."""

    model: str | None
    dimensions: int
    tokens_in: int | None
    seconds: float


class _Vector(BaseModel):
    embedding: Annotated[list[float], Field(min_length=1)]


class _Usage(BaseModel):
    prompt_tokens: Count = None


class _Answer(BaseModel):
    data: Annotated[list[_Vector], Field(min_length=1)]
    usage: Maybe[_Usage] = None


class _Refused(BaseModel):
    error: Any


async def embed(http: Http, target: Target, text: str, *, model: str | None = None) -> Embedded:
    """The embedding of `text` by `model` (else the target's own); ChatError, with advice, where there is none."""
    if target.engine == "http":
        words = "A plain HTTP service embeds nothing."
        raise ChatError(words, "Choose an endpoint with an engine.", cause=Cause.CONFIG, sent=False)
    model = model or target.model
    body = {"input": text} | ({"model": model} if model else {})
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        answer = await http.post(
            target.url + ROUTE, json.dumps(body).encode(), timeout=PATIENCE, headers=target.headers, limit=4 * MIB,
            via=target.via,
        )  # fmt: skip
    except ProbeFailure as failure:
        words = f"No embedding: {target.without_key(failure.evidence)}."
        raise ChatError(words, "Choose another endpoint.", cause=failure.cause, sent=failure.connected) from failure
    if answer.status != 200:
        raise refused(answer, target)
    if (said := parsed(answer, _Answer)) is None:
        wrong = parsed(answer, _Refused)
        words = "it sends no vector" if wrong is None else target.without_key(error_words(wrong.error))
        raise ChatError(f"No embedding: {words}.", "Choose another endpoint.", cause=Cause.BAD_RESPONSE)
    tokens = said.usage.prompt_tokens if said.usage else None
    return Embedded(model, len(said.data[0].embedding), tokens, loop.time() - began)
