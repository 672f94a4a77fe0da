"""The models of an Ollama library, and how long they are kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

FOREVER = 1e10
"""Seconds that no model outlives."""


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """A model on its disk; sizes in MiB, durations in story seconds."""

    name: str
    file_mib: float = 4460.0
    vram_mib: float = 5400.0
    family: str = "qwen2"
    parameters: str = "7.6B"
    quant: str = "Q4_K_M"
    context: int = 8192
    width: int = 3584
    capabilities: tuple[str, ...] = ("completion",)
    init_s: float = 1.0
    load_s: float = 6.0

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    def details(self) -> dict[str, Any]:
        """What every list says of it."""
        return {
            "parent_model": "", "format": "gguf", "family": self.family, "families": [self.family],
            "parameter_size": self.parameters, "quantization_level": self.quant,
        }  # fmt: skip

    def info(self) -> dict[str, Any]:
        """The metadata of its file."""
        return {
            "general.architecture": self.family, "general.file_type": 15,
            "general.parameter_count": int(float(self.parameters.rstrip("BM")) * 1e9),
            f"{self.family}.block_count": 64, f"{self.family}.context_length": 32768,
            f"{self.family}.embedding_length": self.width, f"{self.family}.attention.head_count": 40,
            f"{self.family}.attention.head_count_kv": 8, "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": None,
        }  # fmt: skip


def seconds_of(value: object, default: float) -> float:
    """Seconds from 0, 300, "5m" or -1 (for ever)."""
    if isinstance(value, str):
        units = {"s": 1.0, "m": 60.0, "h": 3600.0}
        value = float(value[:-1]) * units[value[-1]] if value[-1:] in units else float(value)
    if not isinstance(value, int | float):
        return default
    return FOREVER if value < 0 else float(value)
