"""llama.cpp's server, alone or as a router of models; it is never asked what would load a model or keep it awake."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from pydantic import BaseModel

from backends.cluster.reading import ModelInfo, ProbeResult
from backends.cluster.words import Cause
from backends.engines.ask import Ask, parsed
from backends.engines.engine import HealthFirst, well
from backends.engines.metrics import LLAMACPP
from backends.engines.models import Count, Listed, Maybe, Size, Words, bounded, counted, mib, named, require
from backends.engines.refusals import loading
from backends.engines.target import HttpAnswer, ProbeFailure
from backends.text import plain

METRICS_LET_SLEEP: Final = 10519
"""The first build whose /metrics neither wakes a sleeper nor keeps it awake (ggml-org/llama.cpp#27376)."""

_LOADING: Final = "503 Loading model"
_BUILD: Final = re.compile(r"b(\d{1,9})")
_SEPARATOR: Final = re.compile(r"[/\\]")


class _Health(BaseModel):
    status: str
    sleeping: bool = False


class _Meta(BaseModel):
    size: Size = None
    n_ctx: Count = None


class _Status(BaseModel):
    value: str
    failed: bool = False
    exit_code: int | None = None


class _Model(Listed):
    aliases: Maybe[list[str]] = None
    meta: Maybe[_Meta] = None
    status: Maybe[_Status] = None

    def answers_to(self, name: str) -> bool:
        file = _SEPARATOR.split(self.id)[-1]
        return name in (self.id, file, file.removesuffix(".gguf"), *(self.aliases or ()))


class _Models(BaseModel):
    data: list[Maybe[_Model]] | None


class _Props(BaseModel):
    build_info: Words = None
    is_sleeping: Maybe[bool] = None
    endpoint_metrics: Maybe[bool] = None
    role: Words = None
    models_autoload: Maybe[bool] = None

    @property
    def may_count(self) -> bool:
        """Whether /metrics can be asked without waking it or keeping it awake; in doubt not."""
        if self.role == "router" or self.endpoint_metrics is False or self.is_sleeping:
            return False
        build = _BUILD.match(self.build_info or "")
        return self.is_sleeping is None or (build is not None and int(build[1]) >= METRICS_LET_SLEEP)


class LlamaCpp(HealthFirst):
    """llama.cpp's server."""

    name = "llama.cpp"
    route = "/health"
    names = LLAMACPP

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good on {"status":"ok"}; 503 "Loading model" is LOADING."""
        if loading(answer):
            return ProbeResult(Cause.LOADING, _LOADING, latency=answer.seconds)
        said = parsed(answer, _Health) if answer.status == 200 else None
        if said is None or said.status != "ok":
            return None
        return _asleep(well(answer)) if said.sleeping else well(answer)

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """Its models, its build, whether it sleeps, and where that disturbs nothing its counters."""
        wanted = ask.target.model
        answer = await ask.get("/v1/models")
        if loading(answer):
            raise ProbeFailure(Cause.LOADING, _LOADING)
        models = bounded(ask.payload(answer, "/v1/models", _Models).data)
        chosen = [m for m in models if wanted is None or m.answers_to(wanted)]
        if not chosen:
            require(wanted, (m.id for m in models))
        props = await ask.aside("/props", ask.read("/props", _Props))
        version = plain(props.build_info, 40) if props and props.build_info else None
        asleep = bool(props and props.is_sleeping) or health.cause is Cause.SLEEPING
        found = replace(health, version=version, models=tuple(_info(m, asleep) for m in models))
        if any(m.status for m in models):
            return _routed(found, chosen, on_demand=props is None or props.models_autoload is not False)
        if asleep:
            return _asleep(found)
        found = replace(found, evidence=f"answered; {counted(models)}")
        if ask.target.metrics_url is None and not (props and props.may_count):
            return found
        return await self.counted(ask, found)


def _asleep(found: ProbeResult) -> ProbeResult:
    return replace(found, cause=Cause.SLEEPING, evidence="asleep; loads on demand")


def _info(model: _Model, asleep: bool) -> ModelInfo:
    meta = model.meta or _Meta()
    loaded = model.status.value == "loaded" if model.status else not asleep
    return ModelInfo(named(model.id), loaded=loaded, size_mib=mib(meta.size), context=meta.n_ctx)


def _routed(found: ProbeResult, models: list[_Model], *, on_demand: bool) -> ProbeResult:
    """What a router says of `models`: the one that is wanted, or all that it has."""
    states = [m.status.value if m.status else "unknown" for m in models]
    if loaded := states.count("loaded"):
        return replace(found, evidence=f"answered; {loaded} of {counted(models)} loaded")
    for state in ("loading", "downloading"):
        if state in states:
            words = f"router: {models[states.index(state)].id} is {state}"
            return replace(found, cause=Cause.LOADING, evidence=plain(words))
    failure = models[0].status if len(models) == 1 else None
    if failure and failure.failed:
        raise ProbeFailure(Cause.CONFIG, f"{models[0].id} failed to load (exit code {failure.exit_code})")
    if not on_demand:
        raise ProbeFailure(Cause.CONFIG, "no model is loaded, and this router loads none on demand")
    return replace(found, cause=Cause.SLEEPING, evidence=f"no model loaded now, {counted(models)} on demand")
