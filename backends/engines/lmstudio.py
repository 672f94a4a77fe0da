"""LM Studio: /v1/models is its health; its own routes, older and newer, tell which models are loaded."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from backends.cluster.reading import ModelInfo, ProbeResult
from backends.cluster.words import Cause
from backends.engines.ask import Ask, parsed
from backends.engines.engine import HealthFirst, well
from backends.engines.models import Count, Maybe, ModelList, Size, Words, bounded, counted, mib, named, require
from backends.engines.recognise import by_owner
from backends.engines.target import HttpAnswer, ProbeFailure


class _Model(BaseModel):
    id: str
    state: Words = None
    max_context_length: Count = None


class _Models(BaseModel):
    data: list[Maybe[_Model]]


class _NewModel(BaseModel):
    key: str
    loaded_instances: list[object]
    size_bytes: Size = None
    max_context_length: Count = None


class _NewModels(BaseModel):
    models: list[Maybe[_NewModel]]


class LmStudio(HealthFirst):
    """LM Studio's server; it loads models when asked for them."""

    name = "lmstudio"
    route = "/v1/models"
    keyed = True

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good where it lists its models; routes it does not know it answers with 200 and an error."""
        listed = parsed(answer, ModelList) if answer.status == 200 else None
        if listed is None or by_owner(listed) not in (None, self.name):
            return None
        models = tuple(m.info for m in listed.entries)
        return replace(well(answer), models=models, evidence=f"answered; {counted(models)}")

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """Which of its models are loaded."""
        require(ask.target.model, (m.name for m in health.models or ()))
        models = await ask.aside("/api/v0/models", _states(ask))
        if models is None:
            return health
        loaded = {m.name for m in models if m.loaded}
        found = replace(health, models=models)
        if not models or ask.target.model in loaded or (ask.target.model is None and loaded):
            return found
        which = ask.target.model or "no model"
        return replace(found, cause=Cause.SLEEPING, evidence=f"{which} loaded now, {counted(models)} on demand")


async def _states(ask: Ask) -> tuple[ModelInfo, ...]:
    try:
        old = bounded((await ask.read("/api/v0/models", _Models)).data)
    except ProbeFailure as failure:
        if failure.status is None:
            raise
        new = bounded((await ask.read("/api/v1/models", _NewModels)).models)
        return tuple(
            ModelInfo(
                named(m.key),
                loaded=bool(m.loaded_instances),
                size_mib=mib(m.size_bytes),
                context=m.max_context_length,
            )
            for m in new
        )
    return tuple(ModelInfo(named(m.id), loaded=m.state == "loaded", context=m.max_context_length) for m in old)
