"""What engines say in their logs of the memory they took, read back as evidence. All sizes are MiB.

llama.cpp (which says it from `-lv 4` on), Ollama's runners and vLLM; held to what b11549 prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

_LOADS: Final = re.compile(
    r"loaded meta data with .* from (\S.*?) \(version|msg=\"starting (?:runner|llama[- ]server)\""
)
"""A model is loaded (again): llama.cpp's own trial before, and an earlier model of Ollama's, count no more."""

_CONTEXT: Final = "constructing llama_context"
"""One of its own for a draft model; what is printed twice within one was reserved anew."""

_BUFFER: Final = re.compile(r"(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*(\d+(?:\.\d+)?) MiB")
_OLLAMA: Final = re.compile(
    r"msg=\"(model weights|kv cache|compute graph)\" (?:backend=\S+ )?(?:device|buffer|buffer_type)=(\S+)"
    r" size=\"(\d+(?:\.\d+)?) ([KMG]i?)?B\""
)
_VLLM: Final = (
    (re.compile(r"(?:Model loading|Loading model weights) took (\d+(?:\.\d+)?) Gi?B"), "model"),
    (re.compile(r"Available KV cache memory: (\d+(?:\.\d+)?) GiB"), "KV"),
    (re.compile(r"Graph capturing finished in .* took (\d+(?:\.\d+)?) GiB"), "compute"),
)
_VLLM_TOKENS: Final = re.compile(r"GPU KV cache size: (\d{1,3}(?:,\d{3})*) tokens")
_SLOTS: Final = re.compile(r"n_slots = (\d{1,4}), n_ctx_slot = (\d{1,9}), kv_unified = '(true|false)'")

_KINDS: Final = {
    "model": "weights", "RS": "kv", "KV": "kv", "compute": "compute", "output": "compute",
    "model weights": "weights", "kv cache": "kv", "compute graph": "compute",
}  # fmt: skip
_UNITS: Final = {"": 1 / (1 << 20), "K": 1 / (1 << 10), "M": 1.0, "G": 1024.0}
_MOST_MIB: Final = 1e8
_MOST_SIZES: Final = 1000


@dataclass(frozen=True, slots=True)
class Buffers:
    """What one device holds, by the engine's own name for it (CUDA0, CPU_Mapped, CUDA_Host)."""

    name: str
    weights: float = 0.0
    kv: float = 0.0
    compute: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.kv + self.compute

    @property
    def on_gpu(self) -> bool:
        """Whether that is a GPU's memory; what a driver pins for a GPU is the CPU's."""
        return not self.name.startswith(("CPU", "AMX", "BLAS")) and not self.name.lower().endswith("host")


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a log told of one start; None is "not said". `tokens` are those that vLLM's cache holds."""

    buffers: tuple[Buffers, ...] = ()
    context: int | None = None
    slots: int | None = None
    unified: bool | None = None
    tokens: int | None = None

    @property
    def gpu_mib(self) -> float:
        """What it said to hold of GPUs."""
        return sum(each.total for each in self.buffers if each.on_gpu)

    @property
    def backend(self) -> str:
        """What drives the GPU, in the engine's word (CUDA, ROCm, Vulkan); "" where none was named."""
        name = next((each.name for each in self.buffers if each.on_gpu), "")
        return name.rstrip("0123456789")


class Listener:
    """Takes in a log line by line; a model that is loaded anew replaces what was said of it before."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[str, int, str, str], float] = {}
        self._model, self._context = "", 0
        self._rest = Spoken()

    def take(self, line: str) -> None:
        """One more line."""
        if match := _LOADS.search(line):
            self._begin(match[1])
        elif _CONTEXT in line:
            self._context += 1
        elif match := _BUFFER.search(line):
            self._add(match[1], match[2], float(match[3]), anew=match[2] == "compute")
        elif match := _OLLAMA.search(line):
            self._add(match[2], match[1], float(match[3]) * _UNITS[(match[4] or "")[:1]], anew=True)
        elif match := _SLOTS.search(line):
            slots, each, unified = int(match[1]), int(match[2]), match[3] == "true"
            self._rest = replace(self._rest, slots=slots, context=each * (1 if unified else slots), unified=unified)
        elif match := _VLLM_TOKENS.search(line):
            self._rest = replace(self._rest, tokens=int(match[1].replace(",", "")))
        else:
            self._vllm(line)

    def _vllm(self, line: str) -> None:
        """Each of its processes tells of one GPU, and all take alike: the last word counts."""
        for pattern, kind in _VLLM:
            if match := pattern.search(line):
                self._add("GPU", kind, float(match[1]) * 1024, anew=True)

    def _begin(self, file: str | None) -> None:
        """A model is loaded; None: by a process of its own, and the one before may be gone."""
        kept = {} if file is None else {key: size for key, size in self._sizes.items() if key[0] != file}
        self._sizes, self._model, self._context = kept, file or "", 0

    def _add(self, device: str, kind: str, mib: float, *, anew: bool) -> None:
        key = self._model, self._context, device, kind
        if mib < _MOST_MIB and (key in self._sizes or len(self._sizes) < _MOST_SIZES):
            self._sizes[key] = mib if anew else self._sizes.get(key, 0.0) + mib

    @property
    def said(self) -> Spoken | None:
        """What was said by now, None where nothing was."""
        devices = dict.fromkeys(device for _, _, device, _ in self._sizes)
        buffers = tuple(
            Buffers(name, *(self._sum(name, kind) for kind in ("weights", "kv", "compute"))) for name in devices
        )
        found = replace(self._rest, buffers=buffers)
        return None if found == Spoken() else found

    def _sum(self, device: str, kind: str) -> float:
        found = (mib for (_, _, name, word), mib in self._sizes.items() if name == device and _KINDS[word] == kind)
        return round(sum(found), 2)


def spoken(lines: Iterable[str]) -> Spoken | None:
    """What a log tells."""
    listener = Listener()
    for line in lines:
        listener.take(line)
    return listener.said
