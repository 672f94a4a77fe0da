"""Which of an endpoint's models a prompt would go to, and whether that one is in memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from backends.cluster.reading import ModelInfo
from backends.cluster.snapshot import EndpointState
from backends.cluster.words import Cause

if TYPE_CHECKING:
    from backends.cluster.tables import Endpoint

EMBEDS: Final = re.compile(r"embed|\bbge\b|\bgte\b|\be5\b|minilm|rerank", re.IGNORECASE)
"""Names of models that make vectors, not words."""


def model_for(endpoint: Endpoint, state: EndpointState, task: str, wanted: str | None = None) -> ModelInfo | None:
    """The model that a prompt of `task` would go to; None where the endpoint names none, or has not what is `wanted`.

    What was asked for by name, else the inventory's, else one that is loaded, else the first; for embeddings one
    that is named like an embedding model, for all other tasks one that is not.
    """
    named = wanted or (endpoint.model if task != "embed" or _embeds(endpoint.model) else None)
    if named is not None:
        known = next((m for m in state.models if _is(m.name, named)), None)
        return known or (None if wanted and state.models else ModelInfo(named))
    fitting = [m for m in state.models if _embeds(m.name) == (task == "embed")] or list(state.models)
    return min(fitting, key=lambda m: not m.loaded, default=None)


def is_cold(state: EndpointState, model: ModelInfo | None) -> bool:
    """Whether a prompt would have to wake the endpoint, or load its model first."""
    return state.cause is Cause.SLEEPING or (model is not None and model.loaded is False)


def _embeds(name: str | None) -> bool:
    return name is not None and EMBEDS.search(name) is not None


def _is(name: str, wanted: str) -> bool:
    """Whether a model's name is the one wanted: whole, without Ollama's tag, or a file's without folders and ending."""
    file = re.split(r"[/\\]", name)[-1]
    return wanted in (name, name.removesuffix(":latest"), file, file.removesuffix(".gguf"))
