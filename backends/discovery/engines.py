"""Which engine listens at a port, found out by a few cheap questions that wake and load nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ValidationError

from backends.cluster.engines import ENGINES, EngineName
from backends.engines.ask import Ask, parsed
from backends.engines.http import Http
from backends.engines.models import ModelList
from backends.engines.recognise import by_owner, by_signs
from backends.engines.target import HttpAnswer, ProbeFailure, Target

LIMIT: Final = 3.0
"""Seconds one port gets for all its answers."""

_NO_ENGINE: Final = re.compile(r"ui\b|exporter|bench|proxy")

_COUNTERS: Final = tuple((f"\n{facts.counters}".encode(), name) for name, facts in ENGINES.items() if facts.counters)


@dataclass(frozen=True, slots=True)
class Identity:
    """The engine that answers at a port; `locked` where it wants an API key. `engine` is None where it is none."""

    engine: EngineName | None
    locked: bool = False


class _OpenAiList(ModelList):
    object: Literal["list"]


class _Refusal(BaseModel):
    class Words(BaseModel):
        message: str

    error: Words


async def identify(http: Http, url: str, *, limit: float = LIMIT) -> Identity | None:
    """What answers at `url`, within `limit` seconds; None where nothing does, or what does speaks no HTTP."""
    ask = Ask(http, Target(url, "", timeout=limit))
    try:
        answer = await ask.get("/v1/models")
    except ProbeFailure:
        return None
    locked = answer.status in (401, 403)
    listed = parsed(answer, _OpenAiList) if answer.status == 200 else None
    engine = by_signs(answer) or (by_owner(listed) if listed else None)
    for route in () if engine else _further(answer, listed):
        if engine is None and (second := await _answer(ask, route)):
            engine = by_signs(second) or _by_counters(second)
    if engine is None and (listed or (locked and _refuses_like_openai(answer))):
        engine = "openai"
    return Identity(engine, locked or (engine == "litellm" and answer.status != 200))


def by_image(image: str) -> EngineName | None:
    """The engine that a container's image is named after; None where its name tells of none."""
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0].lower()
    if _NO_ENGINE.search(name):
        return None
    return next((engine for engine, facts in ENGINES.items() if facts.image and re.search(facts.image, name)), None)


def likeliest(engine: EngineName, ports: tuple[int, ...]) -> int | None:
    """Of the `ports` of something that does not answer now, the one at which `engine` will."""
    return next((port for port in ENGINES[engine].ports if port in ports), ports[0] if ports else None)


def _further(answer: HttpAnswer, listed: ModelList | None) -> tuple[str, ...]:
    """What else to ask, after `answer` to /v1/models; nothing of a server that only shows web pages."""
    if listed:
        return "/health/liveliness", "/"
    if answer.status in (401, 403):
        return "/health/liveliness", "/metrics"
    if answer.status in (400, 500):
        return ("/health/liveliness",)
    return ("/",) if answer.status == 404 else ()


async def _answer(ask: Ask, route: str) -> HttpAnswer | None:
    try:
        return await ask.get(route)
    except ProbeFailure:
        return None


def _by_counters(answer: HttpAnswer) -> EngineName | None:
    return next((engine for sign, engine in _COUNTERS if sign in answer.body), None)


def _refuses_like_openai(answer: HttpAnswer) -> bool:
    try:
        _Refusal.model_validate_json(answer.body)
    except ValidationError:
        return False
    return True
