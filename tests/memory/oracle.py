"""Asks llama.cpp itself: loads a model, reads the buffer sizes from its log, and ends it before it serves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.memory.settings import Settings

_SIZE = re.compile(r"(model|KV|RS|compute|output) buffer size = *([\d.]+) MiB")
_OVERRIDDEN = re.compile(r"tensor (\S+) \(.*buffer type overridden to CPU")
_RESERVED = "graph: nodes"


class NotTaken(Exception):
    """The engine would not load it; says what it said last."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Sums over the log's lines in MiB; they are printed with two decimals."""

    weights: float
    kv: float
    compute: float
    output: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.kv + self.compute + self.output


def measure(python: str, model: Path, settings: Settings, *, embedding: bool = False) -> Measured:
    """Load `model` with the interpreter that has xllamacpp; raises NotTaken where it refuses."""
    order = {
        "path": str(model),
        "n_ctx": settings.context,
        "n_parallel": settings.parallel,
        "kv_unified": settings.unified,
        "n_batch": settings.batch,
        "n_ubatch": settings.ubatch,
        "cache_type_k": settings.cache_k,
        "cache_type_v": settings.cache_v,
        "flash": settings.flash,
        "embedding": embedding,
    }
    found = {"model": 0.0, "KV": 0.0, "RS": 0.0, "compute": 0.0, "output": 0.0}
    last: list[str] = []
    program = [python, __file__, json.dumps(order)]
    env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    with subprocess.Popen(program, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            last = [*last[-5:], line]
            if size := _SIZE.search(line):
                found[size[1]] += float(size[2])
            if _RESERVED in line:
                process.kill()
                return Measured(found["model"], found["KV"] + found["RS"], found["compute"], found["output"])
    raise NotTaken("".join(last))


def overridden(python: str, model: Path, override: str) -> set[str]:
    """The names of the tensors that the engine moves by an override; raises NotTaken where it refuses."""
    program = [python, __file__, json.dumps({"path": str(model), "flash": True, "tensor_buft_overrides": override})]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        found = set()
        for line in process.stdout:
            if match := _OVERRIDDEN.search(line):
                found.add(match[1])
            if _RESERVED in line:
                process.kill()
                return found
    raise NotTaken(override)


def _load(order: dict[str, object]) -> None:
    import xllamacpp  # type: ignore[import-not-found,unused-ignore]

    params = xllamacpp.CommonParams()
    params.model.path = order.pop("path")
    params.hostnames, params.port, params.verbosity = ["127.0.0.1"], 0, 5
    params.warmup = params.fit_params = False
    params.no_extra_bufts = True
    params.cpuparams.n_threads = 1
    switch = "ENABLED" if order.pop("flash") else "DISABLED"
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{switch}")
    for name, value in order.items():
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value}".upper()) if name.startswith("cache_type") else value
        setattr(params, name, kind)
    xllamacpp.Server(params)


if __name__ == "__main__":
    _load(json.loads(sys.argv[1]))
