"""What vLLM will take: a share of each GPU fixed beforehand, of which its cache gets what weights and peak leave.

The peak is a bound: vLLM measures it in a trial run of a full batch. All figures are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from backends.memory.headers import Header, HeaderError

UTILIZATION = 0.9
"""vLLM's default for --gpu-memory-utilization."""
BATCHED_TOKENS = 8192
"""Tokens of the trial run (--max-num-batched-tokens) of a server on a large GPU; small ones take fewer."""
_SEQUENCES = 256
_OVERHEAD = 1 << 30
"""What CUDA, NCCL and captured graphs take beside PyTorch's own memory."""
_WIDTHS = {"auto": 0, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Share:
    """What each of the GPUs takes: `per_token` of cache, `context` of one whole request."""

    arch: str
    parameters: int
    weights: int
    peak: int
    per_token: int
    context: int

    def tokens(self, capacity: int, utilization: float = UTILIZATION) -> int:
        """Tokens that the cache will hold on a GPU of that size; negative where not even the weights fit."""
        left = int(capacity * utilization) - self.weights - self.peak
        return left // max(1, self.per_token)

    def fits(self, capacity: int, utilization: float = UTILIZATION) -> bool:
        """Whether it starts: one request of full length must fit into the cache."""
        return self.tokens(capacity, utilization) >= self.context


def share(header: Header, gpus: int = 1, context: int = 0, cache: str = "auto") -> Share:
    """What one GPU of so many takes of a model; raises HeaderError where its config.json lacks what counts."""
    count = partial(_count, header)
    hidden, heads, layers = count("hidden_size"), count("num_attention_heads"), count("num_hidden_layers")
    kv_heads, head = count("num_key_value_heads", heads), count("head_dim", hidden // heads)
    weights = sum(tensor.size for tensor in header.tensors)
    width = _WIDTHS.get(cache, 0) or _WIDTHS.get(str(header.values.get("torch_dtype", header.values.get("dtype"))), 2)
    latent = header.values.get("kv_lora_rank")
    if isinstance(latent, int) and latent:
        per_token = layers * (latent + count("qk_rope_head_dim", 64)) * width
    else:
        per_token = layers * 2 * max(1, -(-kv_heads // gpus)) * head * width
    context = context or count("max_position_embeddings", 4096)
    wide = 4 * hidden + 3 * count("intermediate_size", 4 * hidden) // gpus
    peak = 2 * BATCHED_TOKENS * wide + 8 * _SEQUENCES * count("vocab_size", 0) // gpus + _OVERHEAD
    return Share(
        header.arch, sum(tensor.elements for tensor in header.tensors), -(-weights // gpus), peak, per_token, context
    )


def _count(header: Header, key: str, default: int | None = None) -> int:
    value = header.values.get(key, default)
    if type(value) is not int or not 0 <= value < 1 << 31 or (value == 0 and default != 0):
        raise HeaderError(f"its config.json has {value!r} as {key}, which makes no sense.")
    return value
