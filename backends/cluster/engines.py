"""What is known of each engine without asking it: one row an engine, and every other room reads it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

EngineName = Literal["ollama", "llama.cpp", "vllm", "litellm", "lmstudio", "sglang", "openai", "http"]
"""The engines an endpoint can name."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine as its documents describe it."""

    title: str
    """How people call it."""
    probe: str
    """The class of backends.engines that asks it, as "module:class"."""
    health: str
    """The route that proves that it is well, and neither loads a model nor asks one."""
    ports: tuple[int, ...] = ()
    """Where it listens unless told otherwise: asked first, and taken for an engine that does not answer now."""
    image: str = ""
    """A regular expression that its container images' names match."""
    owner: str = ""
    """Whom its list of models names as their owner, where that is peculiar to it."""
    counters: str = ""
    """What the names of its Prometheus counters begin with, where that gives it away."""
    metrics: bool = False
    """Whether it gives Prometheus text itself (llama.cpp with --metrics, LiteLLM with its prometheus callback)."""
    resident: bool = False
    """Whether its process holds its GPU memory for as long as it serves."""
    always_loaded: bool = False
    """Whether it serves a model from its start to its end; the others say of each whether it is loaded."""


ENGINES: Final[Mapping[EngineName, EngineFacts]] = {
    "ollama": EngineFacts(
        "Ollama", "ollama:Ollama", "/api/version", ports=(11434,), image=r"ollama", owner="library"
    ),
    "llama.cpp": EngineFacts(
        "llama.cpp", "llamacpp:LlamaCpp", "/health", ports=(8080, 8081, 8082), image=r"llama[._-]?(cpp|server)",
        owner="llamacpp", metrics=True, resident=True,
    ),
    "vllm": EngineFacts(
        "vLLM", "vllm:Vllm", "/health", ports=(8000, 8001), image=r"vllm", owner="vllm", counters="vllm:",
        metrics=True, resident=True, always_loaded=True,
    ),
    "litellm": EngineFacts(
        "LiteLLM", "litellm:LiteLlm", "/health/liveliness", ports=(4000,), image=r"litellm", metrics=True
    ),
    "lmstudio": EngineFacts(
        "LM Studio", "lmstudio:LmStudio", "/v1/models", ports=(1234,), owner="organization_owner"
    ),
    "sglang": EngineFacts(
        "SGLang", "sglang:Sglang", "/health", ports=(30000,), image=r"sglang", owner="sglang", counters="sglang:",
        metrics=True, resident=True, always_loaded=True,
    ),
    "openai": EngineFacts(
        "An OpenAI-compatible server", "openai:OpenAi", "/v1/models", ports=(5000, 5001, 3000),
        image=r"text-generation-inference|tabbyapi|localai|aphrodite",
    ),
    "http": EngineFacts("An HTTP server", "plain:Plain", ""),
}  # fmt: skip
"""The engines by the names of cluster.toml; images are compared in this order."""
