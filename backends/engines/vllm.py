"""vLLM: an empty 200 on /health, which it keeps giving through hangs; its counters tell more."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from backends.cluster.reading import ProbeResult, Progress
from backends.cluster.words import Cause
from backends.engines.ask import Ask
from backends.engines.engine import HealthFirst, well
from backends.engines.metrics import VLLM
from backends.engines.models import ModelList, counted, require
from backends.engines.recognise import claimed
from backends.engines.target import HttpAnswer, ProbeFailure
from backends.prometheus import samples
from backends.text import plain


class _Version(BaseModel):
    version: str


class Vllm(HealthFirst):
    """vLLM's OpenAI server."""

    name = "vllm"
    route = "/health"
    names = VLLM

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good on an empty 200; the engine that died gives 503."""
        return well(answer) if answer.status == 200 and not answer.body.strip() else None

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """Its models, version and counters, and whether it was put to sleep (it does not wake by itself)."""
        listed = await ask.read("/v1/models", ModelList)
        claimed(listed, self.name)
        require(ask.target.model, (m.id for m in listed.entries))
        models = tuple(m.info for m in listed.entries)
        found = replace(health, models=models, evidence=f"answered; {counted(models)}")
        if (said := await ask.aside("/version", ask.read("/version", _Version))) is not None:
            found = replace(found, version=plain(said.version, 40))
        return await self.counted(ask, found)

    def progress(self, text: str) -> Progress | None:
        """Its progress; CONFIG where it was put to sleep."""
        awake = [v for _, labels, v in samples(text, ("vllm:engine_sleep_state",)) if '"awake"' in labels]
        if awake and not any(awake):
            raise ProbeFailure(Cause.CONFIG, "put to sleep; it wakes on POST /wake_up, not on a prompt")
        return super().progress(text)
