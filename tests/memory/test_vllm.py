"""What vLLM takes of a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from backends.memory.advice import Gpu
from backends.memory.headers import Header, HeaderError, Tensor
from backends.memory.load import vllm_load
from backends.memory.quants import Kind
from backends.memory.settings import Settings
from backends.memory.vllm import share

GIB = 1 << 30
CONFIG: dict[str, Any] = {
    "general.architecture": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
LLAMA_8B = Header(CONFIG, (Tensor("all", (4096, 1_960_000), Kind("BF16", 1, 2)),))


def test_a_token_takes_what_its_keys_and_values_take() -> None:
    assert share(LLAMA_8B).per_token == 2 * 32 * 8 * 128 * 2
    assert share(LLAMA_8B, cache="fp8").per_token == 2 * 32 * 8 * 128
    assert share(LLAMA_8B, gpus=2).per_token == 2 * 32 * 4 * 128 * 2


def test_the_cache_gets_what_weights_and_peak_leave() -> None:
    found = share(LLAMA_8B)
    tokens = found.tokens(24 * GIB)
    assert found.weights + found.peak + tokens * found.per_token <= 24 * GIB * 0.9
    assert found.weights + found.peak + (tokens + 1) * found.per_token > 24 * GIB * 0.9
    assert found.fits(24 * GIB)
    assert not found.fits(16 * GIB)


def test_it_says_what_remains_or_what_would_help() -> None:
    good = vllm_load("m", LLAMA_8B, Settings(), [Gpu("GPU0", 24 * GIB)])
    assert good.fits
    assert "keeps room for" in good.remark
    assert good.needs == {"GPU0": int(24 * GIB * 0.9)}
    long = vllm_load("m", LLAMA_8B, Settings(context=131072), [Gpu("GPU0", 24 * GIB)])
    assert "--max-model-len" in long.advice[0]
    assert "weights" in vllm_load("m", LLAMA_8B, Settings(), [Gpu("GPU0", 12 * GIB)]).advice[0]


@pytest.mark.parametrize("value", [0, -1, "many", 1 << 40, True])
def test_a_configuration_that_makes_no_sense(value: object) -> None:
    with pytest.raises(HeaderError, match="num_hidden_layers"):
        share(Header(CONFIG | {"num_hidden_layers": value}, LLAMA_8B.tensors))
