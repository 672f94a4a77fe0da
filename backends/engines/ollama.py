"""Ollama: /api/version is its health, for /api/ps waits while a model loads and / says nothing but a greeting."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from backends.cluster.reading import ModelInfo, ProbeResult
from backends.cluster.words import Cause
from backends.engines.ask import Ask, parsed
from backends.engines.engine import HealthFirst, well
from backends.engines.models import Count, Maybe, Size, Words, bounded, counted, mib, named, require
from backends.engines.target import HttpAnswer
from backends.text import plain


class _Version(BaseModel):
    version: str


class _Details(BaseModel):
    quantization_level: Words = None


class _Model(BaseModel):
    name: str
    details: Maybe[_Details] = None
    size: Size = None
    size_vram: Size = None
    context_length: Count = None


class _Models(BaseModel):
    models: list[Maybe[_Model]] | None


class Ollama(HealthFirst):
    """Ollama; it loads models when asked for them and unloads them after a while, so idle means SLEEPING."""

    name = "ollama"
    route = "/api/version"
    keyed = True

    def judge(self, answer: HttpAnswer) -> ProbeResult | None:
        """Good where it names its version."""
        said = parsed(answer, _Version) if answer.status == 200 else None
        return well(answer, version=plain(said.version, 40)) if said else None

    async def look(self, ask: Ask, health: ProbeResult) -> ProbeResult:
        """The models it has, and which of them are in memory."""
        has = bounded((await ask.read("/api/tags", _Models)).models)
        running = await ask.aside("/api/ps", ask.read("/api/ps", _Models))
        loaded = None if running is None else {m.name: m for m in bounded(running.models)}
        models = tuple(_info(model, loaded) for model in has)
        wanted = None if ask.target.model is None else tagged(ask.target.model)
        require(wanted, (model.name for model in has))
        found = replace(health, models=models, evidence=f"answered; {counted(models)}")
        if loaded is None or not models or (loaded and wanted is None) or wanted in loaded:
            return found
        which = "no model" if wanted is None else wanted
        return replace(found, cause=Cause.SLEEPING, evidence=f"{which} loaded now, {counted(models)} on demand")


def tagged(model: str) -> str:
    """The model's name as Ollama lists it: with its tag."""
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"


def _info(model: _Model, loaded: dict[str, _Model] | None) -> ModelInfo:
    there = None if loaded is None else loaded.get(model.name)
    quantisation = model.details.quantization_level if model.details else None
    return ModelInfo(
        named(model.name),
        loaded=None if loaded is None else there is not None,
        size_mib=mib(model.size),
        vram_mib=mib(there.size_vram) if there else None,
        context=there.context_length if there else None,
        quantisation=plain(quantisation, 20) if quantisation else None,
    )
