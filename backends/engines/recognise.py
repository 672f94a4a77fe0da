"""Which engine answers, when it is not the one the inventory names: by positive signs only, with one request more."""

from __future__ import annotations

from typing import Final

from backends.cluster.engines import ENGINES, EngineName
from backends.cluster.words import Cause
from backends.engines.ask import Ask, parsed
from backends.engines.models import ModelList
from backends.engines.target import HttpAnswer, ProbeFailure

OWNERS: Final = {facts.owner: name for name, facts in ENGINES.items() if facts.owner}
"""Who calls itself the owner of its models, and is that engine."""

ALIVE: Final = '"I\'m alive!"'
"""What LiteLLM answers at /health/liveliness."""


async def recognised(ask: Ask, answer: HttpAnswer, expected: str) -> EngineName | None:
    """The engine that gave `answer` to a question for `expected`; None where nothing says so for certain."""
    found = by_signs(answer)
    if found is None and (answer.status in (404, 405, 501) or answer.status < 300):
        route = "/" if answer.text.startswith("404 page not found") else "/v1/models"
        try:
            second = await ask.get(route)
        except ProbeFailure:
            return None
        listed = parsed(second, ModelList)
        found = by_signs(second) or (by_owner(listed) if listed else None)
    return found if found != expected else None


def by_signs(answer: HttpAnswer) -> EngineName | None:
    """The engine that one answer gives away."""
    if answer.headers.get("server") == "llama.cpp":
        return "llama.cpp"
    text = answer.text
    if text == "Ollama is running":
        return "ollama"
    if text == ALIVE or '"auth_error"' in text or any(name.startswith("x-litellm-") for name in answer.headers):
        return "litellm"
    if "Unexpected endpoint or method" in text:
        return "lmstudio"
    return None


def by_owner(listed: ModelList) -> EngineName | None:
    """The engine that its list of models gives away."""
    return next((OWNERS[m.owned_by] for m in listed.entries if m.owned_by in OWNERS), None)


def claimed(listed: ModelList, expected: str) -> None:
    """Raise CONFIG where the models on `listed` belong to another engine than the `expected` one."""
    owner = by_owner(listed)
    if owner is not None and owner != expected:
        raise ProbeFailure(Cause.CONFIG, f"{owner} answers here, not {expected}")
