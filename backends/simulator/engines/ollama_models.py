"""The models of an Ollama library, and how long they are kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.simulator.physics import Holding

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
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    inner: int = 18944
    words: int = 152064
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
        norm = "layer_norm_epsilon" if "bert" in self.family else "layer_norm_rms_epsilon"
        return {
            "general.architecture": self.family, "general.file_type": 15,
            "general.parameter_count": int(float(self.parameters.rstrip("BM")) * 1e9),
            f"{self.family}.block_count": self.layers, f"{self.family}.context_length": 32768,
            f"{self.family}.embedding_length": self.width, f"{self.family}.attention.head_count": self.heads,
            f"{self.family}.attention.head_count_kv": self.kv_heads, f"{self.family}.attention.{norm}": 1e-5,
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": None,
        }  # fmt: skip

    def tensors(self) -> list[dict[str, Any]]:
        """The table of its file."""
        kind = "F16" if self.quant == "F16" else "Q4_K"
        side = self.width // self.heads * self.kv_heads
        shapes = {
            "attn_q": [self.width, self.width], "attn_k": [self.width, side], "attn_v": [self.width, side],
            "attn_output": [self.width, self.width], "ffn_gate": [self.width, self.inner],
            "ffn_up": [self.width, self.inner], "ffn_down": [self.inner, self.width],
        }  # fmt: skip
        found = [("token_embd", kind, [self.width, self.words]), ("output", "Q6_K", [self.width, self.words])]
        found += [(f"blk.{n}.{name}", kind, shape) for n in range(self.layers) for name, shape in shapes.items()]
        norms = [(f"blk.{n}.{name}_norm", "F32", [self.width]) for n in range(self.layers) for name in ("attn", "ffn")]
        found += [*norms, ("output_norm", "F32", [self.width])]
        return [{"name": f"{name}.weight", "type": kind, "shape": shape} for name, kind, shape in found]


@dataclass(slots=True)
class Loaded:
    """A model in memory, until it expires."""

    model: OllamaModel
    holding: Holding | None
    vram_mib: float
    expires: float


def tagged(name: object) -> str:
    """A model's name with its tag."""
    return str(name) if ":" in str(name) else f"{name}:latest"


def pulled(model: OllamaModel | None) -> list[dict[str, Any]]:
    """What a server says while it fetches a model; None is one that its registry has not."""
    if model is None:
        return [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
    total = int(model.file_mib * 2**20)
    said = {"status": f"pulling {model.digest[:12]}", "digest": f"sha256:{model.digest}", "total": total}
    quarters = [said | {"completed": total * quarter // 4} for quarter in range(5)]
    return [{"status": "pulling manifest"}, *quarters, {"status": "success"}]


def created(name: str, blob: Path) -> tuple[list[dict[str, str]], OllamaModel | None]:
    """What a server says while it makes a model of a blob (server/create.go), and the model if it takes it."""
    said = [{"status": "parsing GGUF"}]
    if not blob.is_file():
        return [*said, {"error": f"open {blob}: no such file or directory"}], None
    with blob.open("rb") as weights:
        if weights.read(4) != b"GGUF":
            return [*said, {"error": "invalid file magic"}], None
    words = [f"using existing layer {blob.name.replace('-', ':')}", "writing manifest", "success"]
    model = OllamaModel(name, blob.stat().st_size / 2**20, 600.0, load_s=0.1)
    return [*said, *({"status": each} for each in words)], model


def seconds_of(value: object, default: float) -> float:
    """Seconds from 0, 300, "5m" or -1 (for ever)."""
    if isinstance(value, str):
        units = {"s": 1.0, "m": 60.0, "h": 3600.0}
        value = float(value[:-1]) * units[value[-1]] if value[-1:] in units else float(value)
    if not isinstance(value, int | float):
        return default
    return FOREVER if value < 0 else float(value)
