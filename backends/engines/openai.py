"""Any other server that speaks OpenAI's protocol: its list of models is all there is to ask."""

from __future__ import annotations

from dataclasses import replace

from backends.cluster.reading import ProbeResult
from backends.cluster.words import Cause
from backends.engines.ask import Ask, parsed
from backends.engines.engine import HealthFirst, well
from backends.engines.models import ModelList, counted, require
from backends.engines.refusals import loading
from backends.engines.target import HttpAnswer


class OpenAi(HealthFirst):
    """An OpenAI-compatible server."""

    name = "openai"
    route = "/v1/models"
    keyed = True
    specific = False

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good where it lists its models; whoever says that it loads one is LOADING."""
        if loading(answer):
            return ProbeResult(Cause.LOADING, "503 Loading model", latency=answer.seconds)
        listed = parsed(answer, ModelList) if answer.status == 200 else None
        if listed is None:
            return None
        models = tuple(m.info for m in listed.entries)
        return replace(well(answer), models=models, evidence=f"answered; {counted(models)}")

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """Whether the model that is wanted is among them."""
        require(ask.target.model, (m.name for m in health.models or ()))
        return health
