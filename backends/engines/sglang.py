"""SGLang: an empty 200 on /health; /health_generate would cost a token and is never asked."""

from __future__ import annotations

from dataclasses import replace

from backends.cluster.reading import ProbeResult
from backends.engines.ask import Ask
from backends.engines.engine import HealthFirst, well
from backends.engines.metrics import SGLANG
from backends.engines.models import ModelList, counted, require
from backends.engines.recognise import claimed
from backends.engines.target import HttpAnswer


class Sglang(HealthFirst):
    """SGLang's server."""

    name = "sglang"
    route = "/health"
    names = SGLANG

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good on an empty 200."""
        return well(answer) if answer.status == 200 and not answer.body.strip() else None

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """Its models, and its counters where it was started with them."""
        listed = await ask.read("/v1/models", ModelList)
        claimed(listed, self.name)
        require(ask.target.model, (m.id for m in listed.entries))
        models = tuple(m.info for m in listed.entries)
        found = replace(health, models=models, evidence=f"answered; {counted(models)}")
        return await self.counted(ask, found)
