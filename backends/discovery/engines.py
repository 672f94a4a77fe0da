"""Which engine listens at a port, found out by a few cheap questions that wake and load nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ValidationError

from backends.engines.ask import Ask, parsed
from backends.engines.http import Http
from backends.engines.models import ModelList
from backends.engines.recognise import by_owner, by_signs
from backends.engines.target import HttpAnswer, ProbeFailure, Target

LIMIT: Final = 3.0
"""Seconds one port gets for all its answers."""

USUAL: Final = {
    "ollama": (11434,),
    "llama.cpp": (8080, 8081, 8082),
    "vllm": (8000, 8001),
    "litellm": (4000,),
    "lmstudio": (1234,),
    "sglang": (30000,),
    "openai": (5000, 5001, 3000),
}
"""Where engines listen unless told otherwise: asked first, and taken for an engine that does not answer now."""

_IMAGES: Final = (
    (r"ollama", "ollama"),
    (r"vllm", "vllm"),
    (r"llama[._-]?(cpp|server)", "llama.cpp"),
    (r"litellm", "litellm"),
    (r"sglang", "sglang"),
    (r"text-generation-inference|tabbyapi|localai|aphrodite", "openai"),
)
_NO_ENGINE: Final = re.compile(r"ui\b|exporter|bench|proxy")

_COUNTERS: Final = ((b"\nvllm:", "vllm"), (b"\nsglang:", "sglang"))


@dataclass(frozen=True, slots=True)
class Identity:
    """The engine that answers at a port; `locked` where it wants an API key. `engine` is None where it is none."""

    engine: str | None
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


def by_image(image: str) -> str | None:
    """The engine that a container's image is named after; None where its name tells of none."""
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0].lower()
    if _NO_ENGINE.search(name):
        return None
    return next((engine for pattern, engine in _IMAGES if re.search(pattern, name)), None)


def likeliest(engine: str, ports: tuple[int, ...]) -> int | None:
    """Of the `ports` of something that does not answer now, the one at which `engine` will."""
    return next((port for port in USUAL.get(engine, ()) if port in ports), ports[0] if ports else None)


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


def _by_counters(answer: HttpAnswer) -> str | None:
    return next((engine for sign, engine in _COUNTERS if sign in answer.body), None)


def _refuses_like_openai(answer: HttpAnswer) -> bool:
    try:
        _Refusal.model_validate_json(answer.body)
    except ValidationError:
        return False
    return True
