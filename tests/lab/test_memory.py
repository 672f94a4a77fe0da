"""The estimator against llama.cpp itself, on models and settings that are drawn anew from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.memory.estimate import _stored, estimate
from backends.memory.settings import Settings
from tests.lab.cache import llama_python, require
from tests.memory.against import difference
from tests.memory.cases import ARCHITECTURES
from tests.memory.files import header_of
from tests.memory.gguf_files import write
from tests.memory.models import Size, metadata, tensors
from tests.memory.oracle import overridden


@pytest.mark.parametrize("arch", ARCHITECTURES)
async def test_the_engine_takes_what_was_estimated(arch: str, tmp_path: Path) -> None:
    require("llamacpp")
    for number in range(2):
        found = await difference(llama_python(), arch, f"lab {number}", tmp_path)
        assert abs(found.weights) < 0.011, found
        assert abs(found.kv) < 0.011, found
        assert abs(found.compute) < (2 if found.flash else 16), found
        assert 0 <= found.share < 0.02, found


@pytest.mark.parametrize(
    "pattern",
    ["ffn_(up|down)", r"blk\.[13]\.ffn_.*_exps", "^blk", r"\.weight$", "token_embd", "[0-2].attn_[qk]", "FFN"],
)
async def test_the_same_tensors_are_moved(pattern: str, tmp_path: Path) -> None:
    """Without a GPU the engine tells which tensors a pattern moves, though all of them stay with the CPU."""
    require("llamacpp")
    size = Size(layers=4, embd=256, heads=4, kv_heads=2, head=64, ff=128, vocab=512, experts=4, used=2)
    path = write(tmp_path / "m.gguf", metadata("qwen3moe", size), tensors("qwen3moe", size))
    header = await header_of(path)
    before, after = (
        estimate(header, Settings(context=512, overrides=overrides), 1).devices[0].weights
        for overrides in ((), ((pattern, "CPU"),))
    )
    moved = {tensor for tensor in header.tensors if tensor.name in overridden(llama_python(), path, f"{pattern}=CPU")}
    on_gpu = sum(_stored(tensor, 1) for tensor in moved if tensor.name != "token_embd.weight")
    assert before - after == on_gpu
