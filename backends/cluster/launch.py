"""How a container starts its model, read from its arguments, its environment and its mounts."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Final

from backends.cluster.reading import Launch

_FLAGS: Final = {
    "-m": "model", "--model": "model", "-ngl": "gpu_layers", "--gpu-layers": "gpu_layers",
    "--n-gpu-layers": "gpu_layers", "-c": "context", "--ctx-size": "context", "--max-model-len": "context",
    "-b": "batch", "--batch-size": "batch", "-fa": "flash", "--flash-attn": "flash",
    "-np": "parallel", "--parallel": "parallel", "-ub": "ubatch", "--ubatch-size": "ubatch",
    "-ctk": "cache_k", "--cache-type-k": "cache_k", "-ctv": "cache_v", "--cache-type-v": "cache_v",
    "-kvu": "unified", "--kv-unified": "unified", "-ncmoe": "cpu_moe", "--n-cpu-moe": "cpu_moe",
}  # fmt: skip
_SWITCHES: Final = {"flash", "unified"}
"""Flags that may stand without a value."""
_VARIABLES: Final = {
    "LLAMA_ARG_MODEL": "model", "MODEL_PATH": "model", "LLAMA_ARG_N_GPU_LAYERS": "gpu_layers",
    "N_GPU_LAYERS": "gpu_layers", "LLAMA_ARG_CTX_SIZE": "context", "N_CTX": "context", "LLAMA_ARG_BATCH": "batch",
    "N_BATCH": "batch", "LLAMA_ARG_FLASH_ATTN": "flash", "FLASH_ATTN": "flash", "LLAMA_ARG_N_PARALLEL": "parallel",
    "N_PARALLEL": "parallel", "LLAMA_ARG_UBATCH": "ubatch", "LLAMA_ARG_CACHE_TYPE_K": "cache_k",
    "LLAMA_ARG_CACHE_TYPE_V": "cache_v", "LLAMA_ARG_KV_UNIFIED": "unified", "LLAMA_ARG_N_CPU_MOE": "cpu_moe",
}  # fmt: skip
_LONGEST = 300


def launch(command: Sequence[str], environment: Mapping[str, str], mounts: Mapping[str, str]) -> Launch | None:
    """What they say of a model, None where they say nothing; `mounts` are volumes or folders by where they stand.

    Arguments count more than the environment. Of the environment only the named variables are looked at.
    """
    said = {_VARIABLES[name]: value for name, value in environment.items() if name in _VARIABLES}
    words = [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for index, word in enumerate(words):
        if word in _FLAGS:
            after = words[index + 1] if index + 1 < len(words) else ""
            said[_FLAGS[word]] = "on" if _FLAGS[word] in _SWITCHES and after[:1] in ("", "-") else after
    if not said:
        return None
    path = said.get("model", "")[:_LONGEST]
    return Launch(
        file=_outside(path, mounts) if path else None,
        gpu_layers=_number(said.get("gpu_layers")),
        context=_number(said.get("context")),
        batch=_number(said.get("batch")),
        flash=_switch(said.get("flash")),
        parallel=_number(said.get("parallel")),
        unified=_switch(said.get("unified")),
        ubatch=_number(said.get("ubatch")),
        cache_k=_kind(said.get("cache_k")),
        cache_v=_kind(said.get("cache_v")),
        cpu_moe=_number(said.get("cpu_moe")),
    )


def _outside(path: str, mounts: Mapping[str, str]) -> str:
    """A path inside the container as one outside: volume:NAME/PATH, or a folder of the node."""
    for folder in sorted(mounts, key=len, reverse=True):
        if path.startswith(folder.rstrip("/") + "/"):
            rest, source = posixpath.relpath(path, folder), mounts[folder]
            return posixpath.join(source, rest) if source.startswith("/") else f"volume:{source}/{rest}"
    return path


def _number(text: str | None) -> int | None:
    return int(text) if text and text.lstrip("-").isdecimal() and len(text) < 12 else None


def _switch(text: str | None) -> bool | None:
    return {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}.get((text or "").lower())


def _kind(text: str | None) -> str | None:
    """A type of numbers by its name, whether or not there is one of that name."""
    return text.lower() if text and len(text) < 12 and text.replace("_", "").isalnum() else None
