"""Settings written as the engines take them: what a person copies, or deployment writes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from backends.memory.settings import Settings

if TYPE_CHECKING:
    from backends.cluster.drafting import Answer

CHANGED = Settings()
"""llama-server's own defaults, which need not be said."""


def llama_flags(settings: Settings) -> list[str]:
    """Arguments of llama-server, without the model's."""
    flags = ["--n-gpu-layers", "99" if settings.gpu_layers is None else str(settings.gpu_layers)]
    if settings.context:
        flags += ["--ctx-size", str(settings.context)]
    for flag, value, usual in (
        ("--parallel", settings.parallel, CHANGED.parallel),
        ("--batch-size", settings.batch, CHANGED.batch),
        ("--ubatch-size", settings.ubatch, CHANGED.ubatch),
        ("--cache-type-k", settings.cache_k, CHANGED.cache_k),
        ("--cache-type-v", settings.cache_v, CHANGED.cache_v),
        ("--n-cpu-moe", settings.cpu_moe, CHANGED.cpu_moe),
    ):
        if value != usual:
            flags += [flag, str(value)]
    if settings.unified:
        flags.append("--kv-unified")
    flags += ["--flash-attn", "on" if settings.flash else "off"]
    if settings.split:
        flags += ["--tensor-split", ",".join(f"{part:g}" for part in settings.split)]
    if settings.overrides:
        flags += ["--override-tensor", ",".join(f"{name}={device}" for name, device in settings.overrides)]
    return flags


def deployment(settings: Settings, *, safetensors: bool) -> dict[str, Answer]:
    """The same as the keys of a deployment's file; what it has no key for stands in its `arguments`."""
    found: dict[str, Answer] = {"preset": "vllm" if safetensors else "llama.cpp"}
    found |= {"context": settings.context} if settings.context else {}
    if safetensors:
        return found
    found |= {"gpu_layers": settings.gpu_layers} if settings.gpu_layers is not None else {}
    found |= {"parallel": settings.parallel} if settings.parallel != CHANGED.parallel else {}
    keyed = replace(settings, context=0, gpu_layers=None, parallel=CHANGED.parallel, split=())
    return found | {"arguments": llama_flags(keyed)[2:]}


def llama_environment(settings: Settings) -> list[str]:
    """The same as a container's environment, in the names that llama-server reads."""
    names = {
        "--n-gpu-layers": "LLAMA_ARG_N_GPU_LAYERS",
        "--ctx-size": "LLAMA_ARG_CTX_SIZE",
        "--parallel": "LLAMA_ARG_N_PARALLEL",
        "--batch-size": "LLAMA_ARG_BATCH",
        "--ubatch-size": "LLAMA_ARG_UBATCH",
        "--cache-type-k": "LLAMA_ARG_CACHE_TYPE_K",
        "--cache-type-v": "LLAMA_ARG_CACHE_TYPE_V",
        "--n-cpu-moe": "LLAMA_ARG_N_CPU_MOE",
        "--flash-attn": "LLAMA_ARG_FLASH_ATTN",
        "--tensor-split": "LLAMA_ARG_TENSOR_SPLIT",
        "--override-tensor": "LLAMA_ARG_OVERRIDE_TENSOR",
    }
    flags = llama_flags(settings)
    found = [f"{names[flag]}={value}" for flag, value in pairwise(flags) if flag in names]
    return [*found, "LLAMA_ARG_KV_UNIFIED=1"] if settings.unified else found


def modelfile(name: str, settings: Settings) -> list[str]:
    """Lines of an Ollama Modelfile; the cache's type is a variable of Ollama's server."""
    lines = [f"FROM {name}"]
    if settings.context:
        lines.append(f"PARAMETER num_ctx {settings.context}")
    if settings.gpu_layers is not None:
        lines.append(f"PARAMETER num_gpu {settings.gpu_layers}")
    if settings.cache_k != CHANGED.cache_k:
        lines.append(f"# OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={settings.cache_k}")
    return lines


def vllm_flags(settings: Settings, gpus: int = 1) -> list[str]:
    """Arguments of `vllm serve`, without the model's."""
    flags = ["--max-model-len", str(settings.context)] if settings.context else []
    if gpus > 1:
        flags += ["--tensor-parallel-size", str(gpus)]
    return flags


def written(name: str, settings: Settings, gpus: int = 1, *, safetensors: bool = False) -> Sequence[str]:
    """All of them for one model, for a page."""
    if safetensors:
        return ["vllm serve " + " ".join([name, *vllm_flags(settings, gpus)])]
    return [
        "llama-server --model " + shlex.join([name, *llama_flags(settings)]),
        "",
        *llama_environment(settings),
        "",
        *modelfile(name, settings),
    ]
