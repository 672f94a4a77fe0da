"""What a header says of a model's shape, in the words of the estimator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from backends.memory.headers import Header, HeaderError, Tensor

WINDOW_EVERY = {
    "gemma2": 2,
    "gemma3": 6,
    "gpt-oss": 2,
    "cohere2": 4,
}
"""Of so many layers the last sees everything and the others a window, as llama.cpp b11549 sets it by architecture.

Of others, that every layer sees everything is the most they can take."""

_MOST_LAYERS, _MOST_EXPERTS = 1_024, 256


@dataclass(frozen=True)
class Model:
    """A header, read with the keys of its architecture; raises HeaderError where a key makes no sense."""

    header: Header

    @cached_property
    def arch(self) -> str:
        """The architecture, in llama.cpp's word."""
        return self.header.arch

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {tensor.name: tensor for tensor in self.header.tensors}

    @cached_property
    def layers(self) -> int:
        """How many layers llama.cpp runs; those that predict further tokens are not run."""
        count = self._count("block_count") - self._count("nextn_predict_layers")
        if not 1 <= count <= _MOST_LAYERS:
            raise HeaderError(f"it says that it has {count} layers: the file is broken, or no language model.")
        return count

    @cached_property
    def embd(self) -> int:
        """The width of what passes from layer to layer."""
        return self._positive("embedding_length")

    @cached_property
    def vocab(self) -> int:
        """How many tokens it knows."""
        for name in ("output.weight", "token_embd.weight"):
            if (tensor := self.tensors.get(name)) and len(tensor.dims) == 2:
                return tensor.dims[1]
        return self._count("vocab_size") or self.header.lengths.get("tokenizer.ggml.tokens", 0)

    @cached_property
    def trained_context(self) -> int:
        """Tokens of context it was trained for."""
        return self._count("context_length") or 4096

    @cached_property
    def window(self) -> int:
        """Tokens that a layer with a window sees, 0 without one."""
        return self._count("attention.sliding_window") if self.arch in WINDOW_EVERY else 0

    @cached_property
    def used_experts(self) -> int:
        """Experts that a token is sent to."""
        count = self._count("expert_used_count")
        if count > _MOST_EXPERTS:
            raise HeaderError(f"it says that each token goes to {count} experts: the file is broken.")
        return count

    @cached_property
    def latent(self) -> int:
        """The rank of a compressed cache (MLA), 0 without one."""
        return self._count("attention.kv_lora_rank") if self._count("attention.key_length_mla") else 0

    @cached_property
    def rope(self) -> int:
        """How much of a head is rotated."""
        return self._count("rope.dimension_count")

    @cached_property
    def causal(self) -> bool:
        """Whether it keeps a cache; encoders do not."""
        return bool(self._value("attention.causal", True))

    @cached_property
    def root_mean_square(self) -> bool:
        """Whether its norms leave the mean alone."""
        return f"{self.arch}.attention.layer_norm_rms_epsilon" in self.header.values

    @cached_property
    def pooling(self) -> int:
        """How an encoder sums up: 0 not at all, 1 mean, 2 first token, 3 last token, 4 rank."""
        return self._count("pooling_type")

    def heads(self, layer: int) -> int:
        """Heads that ask."""
        return self._count("attention.head_count", layer)

    def kv_heads(self, layer: int) -> int:
        """Heads that are asked."""
        key = f"{self.arch}.attention.head_count_kv"
        return self._count("attention.head_count_kv", layer) if key in self.header.values else self.heads(layer)

    def key_length(self, layer: int) -> int:
        """Numbers of a key, per head."""
        return self._count("attention.key_length") or self.embd // max(1, self.heads(layer))

    def value_length(self, layer: int) -> int:
        """Numbers of a value, per head."""
        return self._count("attention.value_length") or self.embd // max(1, self.heads(layer))

    def windowed(self, layer: int) -> bool:
        """Whether this layer sees a window only."""
        if not self.window:
            return False
        pattern = self.header.values.get(f"{self.arch}.attention.sliding_window_pattern")
        if isinstance(pattern, tuple):
            return bool(pattern[layer]) if layer < len(pattern) else False
        every = pattern if isinstance(pattern, int) and pattern > 0 else WINDOW_EVERY[self.arch]
        return layer % every < every - 1

    def number(self, key: str) -> float:
        """A key of the architecture that says how much, 0 where it is not there."""
        value = self._value(key, 0.0)
        return float(value) if isinstance(value, int | float) else 0.0

    def flag(self, key: str) -> bool:
        """A key of the architecture that says whether."""
        return bool(self._value(key, False))

    def of(self, layer: int, name: str) -> Tensor | None:
        """A tensor of a layer, by what stands behind `blk.N.`."""
        return self.tensors.get(f"blk.{layer}.{name}")

    def _value(self, key: str, default: object) -> object:
        return self.header.values.get(f"{self.arch}.{key}", default)

    def _count(self, key: str, layer: int = 0) -> int:
        value = self._value(key, 0)
        if isinstance(value, tuple):
            value = value[layer] if layer < len(value) else 0
        if not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise HeaderError(f"its {self.arch}.{key} is {value!r}, which makes no sense: the file is broken.")
        return int(value)

    def _positive(self, key: str) -> int:
        if count := self._count(key):
            return count
        raise HeaderError(f"it has no {self.arch}.{key}: it is no language model, or one of an unknown kind.")
