"""The engines by name; each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from backends.cluster.words import ENGINES as NAMES
from backends.engines.engine import Engine

_WHERE: Final = {
    "ollama": ("ollama", "Ollama"),
    "llama.cpp": ("llamacpp", "LlamaCpp"),
    "vllm": ("vllm", "Vllm"),
    "litellm": ("litellm", "LiteLlm"),
    "lmstudio": ("lmstudio", "LmStudio"),
    "sglang": ("sglang", "Sglang"),
    "openai": ("openai", "OpenAi"),
    "http": ("plain", "Plain"),
}


class _Engines(Mapping[str, Engine]):
    """Engines by the names of cluster.toml."""

    def __getitem__(self, name: str) -> Engine:
        module, kind = _WHERE[name]
        engine: Engine = getattr(import_module(f"backends.engines.{module}"), kind)()
        return engine

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


ENGINES: Final[Mapping[str, Engine]] = _Engines()
"""The engines by the names of cluster.toml."""
