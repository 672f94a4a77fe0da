"""Settings as the engines take them."""

from __future__ import annotations

from backends.memory.arguments import llama_environment, llama_flags, modelfile, written
from backends.memory.settings import Settings

CHANGED = Settings(
    context=8192, parallel=2, unified=True, cache_k="q8_0", cache_v="q8_0", gpu_layers=20, split=(3, 1), cpu_moe=4
)


def test_llama_server_is_told_what_differs_from_its_defaults() -> None:
    assert " ".join(llama_flags(Settings())) == "--n-gpu-layers 99 --flash-attn on"
    assert " ".join(llama_flags(CHANGED)) == (
        "--n-gpu-layers 20 --ctx-size 8192 --parallel 2 --cache-type-k q8_0 --cache-type-v q8_0 --n-cpu-moe 4 "
        "--kv-unified --flash-attn on --tensor-split 3,1"
    )


def test_a_container_is_told_the_same() -> None:
    assert llama_environment(Settings()) == ["LLAMA_ARG_N_GPU_LAYERS=99", "LLAMA_ARG_FLASH_ATTN=on"]
    assert "LLAMA_ARG_N_CPU_MOE=4" in llama_environment(CHANGED)
    assert "LLAMA_ARG_KV_UNIFIED=1" in llama_environment(CHANGED)


def test_ollama_gets_a_modelfile() -> None:
    assert modelfile("m", Settings()) == ["FROM m"]
    assert modelfile("m", CHANGED)[1:3] == ["PARAMETER num_ctx 8192", "PARAMETER num_gpu 20"]


def test_vllm_gets_its_flags() -> None:
    found = written("m", Settings(context=4096), 2, safetensors=True)
    assert found == ["vllm serve m --max-model-len 4096 --tensor-parallel-size 2"]
