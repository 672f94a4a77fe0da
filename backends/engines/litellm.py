"""LiteLLM's proxy; /health is never asked, for it calls every model behind it and hangs with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pydantic import BaseModel

from backends.cluster.reading import ProbeResult, Progress
from backends.cluster.words import Cause
from backends.engines.ask import Ask, parsed
from backends.engines.engine import HealthFirst, well
from backends.engines.metrics import gateway
from backends.engines.models import ModelList, Words, counted, require
from backends.engines.recognise import ALIVE
from backends.engines.refusals import key_trouble, message
from backends.engines.target import HttpAnswer, ProbeFailure, Target
from backends.text import plain

_READY: Final = ("healthy", "connected", "ok")


class _Readiness(BaseModel):
    status: str
    litellm_version: Words = None


class LiteLlm(HealthFirst):
    """LiteLLM's proxy."""

    name = "litellm"
    route = "/health/liveliness"

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good where it says that it is alive."""
        return well(answer) if answer.status == 200 and answer.text == ALIVE else None

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """Whether it is ready, and the models that the key may use."""
        found = health
        ready = await ask.aside("/health/readiness", ask.get("/health/readiness", keyed=False))
        if ready is not None:
            found = replace(health, version=_readiness(ready, ask))
        answer = await ask.get("/v1/models")
        if words := key_trouble(answer, ask.target):
            raise ProbeFailure(Cause.CONFIG, f"{answer.status} on /v1/models: {words}", status=answer.status)
        listed = ask.payload(answer, "/v1/models", ModelList)
        require(ask.target.model, (m.id for m in listed.entries))
        models = tuple(m.info for m in listed.entries)
        found = replace(found, models=models, evidence=f"answered; {counted(models)}")
        if ask.target.metrics_url is None:
            return found
        return await self.counted(ask, found)

    def metrics_route(self, target: Target) -> str:
        """Where its metrics are: without the last stroke it redirects; its own need the key, which nobody else gets."""
        url = f"{target.metrics_url}/"
        return url.removeprefix(target.url) if url.startswith(f"{target.url}/") else url

    def progress(self, text: str) -> Progress | None:
        """Requests and tokens of each model."""
        return gateway(text)


def _readiness(answer: HttpAnswer, ask: Ask) -> str | None:
    """Its version, where it tells it; CONFIG with its own words where it is not ready."""
    said = parsed(answer, _Readiness)
    if answer.status == 200 and said is not None and said.status.lower() in _READY:
        return plain(said.litellm_version, 40) if said.litellm_version else None
    words = said.status if said is not None else message(answer) or f"status {answer.status}"
    raise ProbeFailure(Cause.CONFIG, f"readiness: {ask.target.without_key(words)}", seconds=answer.seconds)
