"""How an engine is asked to run a model, with llama-server's names and defaults, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from backends.memory.model import Model
from backends.memory.quants import CACHE_TYPES, Kind

CELLS = 256
"""Caches hold a multiple of so many tokens."""


def padded(count: int, to: int = CELLS) -> int:
    """The next multiple."""
    return -(-count // to) * to


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of llama-server that count; `context` 0 is what the model was trained for, `layers` None is all.

    `overrides` are patterns of tensors' names with the device each goes to; `every_output` is not an argument but what
    builds before June 2026 did: they reserve logits for each token of a batch.
    """

    context: int = 0
    parallel: int = 1
    unified: bool = False
    batch: int = 2048
    ubatch: int = 512
    cache_k: str = "f16"
    cache_v: str = "f16"
    flash: bool = True
    gpu_layers: int | None = None
    split: tuple[float, ...] = ()
    cpu_moe: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    every_output: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings as the engine rounds them for one model."""

    context: int
    streams: int
    cells: int
    window_cells: int
    tokens: int
    outputs: int
    parallel: int
    flash: bool
    key: Kind
    value: Kind


def plan(model: Model, settings: Settings) -> Plan:
    """Round the settings as llama_context's constructor and the caches do."""
    asked = settings.context or model.trained_context
    parallel = max(1, settings.parallel)
    streams = 1 if settings.unified else parallel
    cells = padded(-(-padded(asked) // streams)) if streams == 1 else padded(padded(asked) // streams)
    context = cells * streams
    batch = min(asked, settings.batch) if model.causal else settings.batch
    tokens = min(context, batch, settings.ubatch or batch)
    tokens = padded(tokens, parallel) if tokens % parallel else tokens
    reach = model.window * (parallel if settings.unified else 1) + min(batch, settings.ubatch or batch)
    outputs = parallel if model.causal and not settings.every_output else tokens
    return Plan(
        context,
        streams,
        cells,
        min(cells, padded(reach)),
        tokens,
        min(outputs, tokens),
        parallel,
        settings.flash,
        CACHE_TYPES[settings.cache_k],
        CACHE_TYPES[settings.cache_v],
    )
