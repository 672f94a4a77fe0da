"""What the architectures' graphs do that no tensor shows, after src/models of llama.cpp b11549."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Style:
    """What a graph does that no tensor shows."""

    scaled_input: bool = False
    scaled_query: bool = False
    scaled_logits: bool = False
    soft_capped: bool = False
    parallel: bool = False
    first_experts: bool = False
    norm_weights: bool = True
    soft_max_after: bool = False
    residual_last: bool = False


STYLES = {
    "gemma": Style(scaled_input=True, scaled_query=True),
    "gemma2": Style(scaled_input=True, scaled_query=True, soft_capped=True),
    "gemma3": Style(scaled_input=True, scaled_query=True),
    "phi3": Style(scaled_query=True, residual_last=True),
    "command-r": Style(parallel=True, scaled_logits=True),
    "cohere2": Style(parallel=True, scaled_logits=True),
    "granite": Style(scaled_input=True, scaled_logits=True),
    "granitemoe": Style(scaled_input=True, scaled_logits=True),
    "qwen2moe": Style(norm_weights=False),
    "olmoe": Style(norm_weights=False),
    "gpt-oss": Style(norm_weights=False, soft_max_after=True),
}
ENCODERS = {"bert", "nomic-bert", "jina-bert-v2", "nomic-bert-moe"}
UNROTATED = {"cohere2"}
"""Those whose layers without a window know no positions."""
_AS_LLAMA = {"llama", "mistral3", "internlm2", "exaone", "minicpm", "ernie4_5"}
KNOWN = {*_AS_LLAMA, "qwen2", "qwen3", "qwen3moe", "deepseek2", "bert", "nomic-bert", *STYLES}
"""Architectures whose graphs were compared with the engine's."""
