"""How far a start has come: by its engine's own words where it has them, else by its past starts."""

from __future__ import annotations

import re
from typing import Final

from pydantic import JsonValue

from backends.procedures.learned import Expected

_PERCENT: Final = re.compile(r"(?:load|shard|tensor|weight)[^%]{0,60}?\b(\d{1,3})\s?%", re.IGNORECASE)
"""vLLM and SGLang: "Loading safetensors checkpoint shards:  25% Completed | 1/4"."""

_SHARE: Final = re.compile(r"load progress[ =:]+([01](?:\.\d+)?)\b", re.IGNORECASE)
"""Ollama: "model load progress 0.25"."""

_DOTS: Final = re.compile(r"\.{10,100}")
"""llama.cpp: a dot for each hundredth of its tensors."""

_BUFFER: Final = re.compile(r"(\S+)\s+(?:model|KV|RS|compute|output) buffer size\s*=\s*(\d+(?:\.\d+)?) MiB")
"""llama.cpp: "load_tensors:        CUDA0 model buffer size =  7605.33 MiB"; nine tenths of what it will take."""

_UNFINISHED: Final = 0.99
"""The most that an estimate says of a start that is not ready."""


class Loading:
    """What one start has said of itself (`share` of its weights, from 0 to 1), and what it is expected to take."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self.share: float | None = None
        self._buffers = 0.0

    def take(self, line: str) -> None:
        """One line of its log."""
        if match := _PERCENT.search(line):
            self.share = min(1.0, int(match[1]) / 100)
        elif match := _SHARE.search(line):
            self.share = min(1.0, float(match[1]))
        elif match := _DOTS.fullmatch(line.strip()):
            self.share = len(match[0]) / 100
        elif (match := _BUFFER.search(line)) and not match[1].startswith("CPU") and not match[1].endswith("_Host"):
            self._buffers += float(match[2])

    @property
    def mib(self) -> float | None:
        """The GPU memory it will take: as its past starts did, else as it says itself."""
        return self._expected.mib or self._buffers or None

    def figures(self, waited: float) -> dict[str, JsonValue]:
        """Its progress from 0 to 1, None where it is not known, and whether that is an estimate."""
        seconds = self._expected.seconds
        own = self.share if self.share is not None and self.share < 1 else None
        guess = min(_UNFINISHED, waited / seconds) if seconds else None
        progress = own if own is not None else guess
        return {
            "progress": None if progress is None else round(progress, 3),
            "estimate": own is None,
            "expected_s": seconds,
            "expected_mib": self.mib,
        }

    def words(self, verb: str, waited: float, took_mib: float | None) -> str:
        """The same for people: loading 22/~31 s, VRAM 3.1/~4.4 GiB."""
        seconds = self._expected.seconds
        text = f"{verb} {waited:.0f}{f'/~{seconds:.0f}' if seconds else ''} s"
        if self.share is not None and self.share < 1:
            text += f", {self.share:.0%} of its weights"
        if took_mib is not None:
            text += f", VRAM {took_mib / 1024:.1f}{f'/~{self.mib / 1024:.1f}' if self.mib else ''} GiB"
        return text
