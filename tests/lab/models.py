"""GGUF models for the lab: tiny random ones that chat, and sparse ones of real size that take their time to load."""

import json
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.lab.cache import llama_python
from tests.lab.process import LabError

WRITER = Path(__file__).with_name("write_gguf.py")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model is made of; `quant` is a GGML type that every matrix gets, `expert_ff` counts per expert."""

    arch: str = "llama"
    name: str = "tiny"
    layers: int = 2
    embd: int = 64
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    ff: int = 128
    experts: int = 0
    experts_used: int = 0
    expert_ff: int = 0
    vocab: int = 512
    context: int = 2048
    window: int = 256
    quant: str = "Q8_0"


SHAPES = {
    "llama": Shape(),
    "qwen2": Shape(arch="qwen2"),
    "qwen3moe": Shape(arch="qwen3moe", experts=4, experts_used=2, expert_ff=64),
    "gemma3": Shape(arch="gemma3", layers=6),
}

LARGE = Shape(
    name="large", layers=32, embd=4096, heads=32, kv_heads=8, head_dim=128, ff=14336, vocab=32000, quant="Q4_0"
)
"""The shape of an 8B Llama: 4.2 GB as Q4_0."""


def tiny_gguf(path: Path, arch: str = "llama", *, shape: Shape | None = None, seed: int = 1) -> Path:
    """Writes a small random model (160 to 370 KB) of the architecture llama, qwen2, qwen3moe or gemma3."""
    return _write(path, shape or SHAPES[arch], sparse=False, seed=seed)


def sparse_gguf(path: Path, shape: Shape = LARGE, *, layers: int | None = None) -> Path:
    """Writes a model of real size as a hole: no disk, all weights zero; each layer of LARGE loads in 0.7 s."""
    return _write(path, replace(shape, layers=layers or shape.layers), sparse=True, seed=0)


def _write(path: Path, shape: Shape, *, sparse: bool, seed: int) -> Path:
    order = {**asdict(shape), "path": str(path), "sparse": sparse, "seed": seed}
    done = subprocess.run(
        [llama_python(), WRITER], input=json.dumps(order), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise LabError(f"no model was written to {path}: {done.stderr.strip()[-400:]}")
    return path
