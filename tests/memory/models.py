"""Models of every architecture the estimator knows, with the keys and tensors that llama.cpp asks of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.memory.gguf_files import Row

EXPERTS = {"mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss", "deepseek2", "granitemoe"}
BERTS = {"bert", "nomic-bert"}
CENTRED = {*BERTS, "command-r", "cohere2"}
"""Those whose norms subtract the mean."""
TIED = {"gemma2", "gemma3", "command-r", "gemma", "cohere2"}


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a model; `ff` is one expert's where there are experts."""

    layers: int = 4
    embd: int = 1024
    heads: int = 16
    kv_heads: int = 4
    head: int = 64
    ff: int = 2816
    vocab: int = 32000
    context: int = 131072
    experts: int = 8
    used: int = 2
    shared: int = 0
    window: int = 512
    kind: str = "Q8_0"
    dense: int = 1
    q_rank: int = 0
    kv_rank: int = 512
    rope: int = 64
    tied: bool = False
    bias: bool = False


def metadata(arch: str, size: Size) -> dict[str, object]:
    """The keys of the header."""
    name = "llama" if arch == "mixtral" else arch
    mla = arch == "deepseek2"
    found: dict[str, object] = {
        "general.architecture": name,
        "general.name": arch,
        "tokenizer.ggml.model": "none",
        f"{name}.vocab_size": size.vocab,
        f"{name}.context_length": size.context,
        f"{name}.embedding_length": size.embd,
        f"{name}.block_count": size.layers,
        f"{name}.feed_forward_length": size.ff,
        f"{name}.attention.head_count": size.heads,
        f"{name}.attention.head_count_kv": 1 if mla else size.kv_heads,
        f"{name}.attention.{'layer_norm_epsilon' if arch in CENTRED else 'layer_norm_rms_epsilon'}": 1e-5,
    }
    if mla:
        more: dict[str, Any] = {
            "attention.key_length": size.kv_rank + size.rope,
            "attention.value_length": size.kv_rank,
            "attention.key_length_mla": size.head + size.rope,
            "attention.value_length_mla": size.head,
            "attention.kv_lora_rank": size.kv_rank,
            "rope.dimension_count": size.rope,
            "leading_dense_block_count": size.dense,
            "expert_feed_forward_length": size.ff,
            "expert_shared_count": size.shared or 1,
            "expert_weights_scale": 1.0,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
        } | ({"attention.q_lora_rank": size.q_rank} if size.q_rank else {})
    elif arch not in BERTS:
        more = {"attention.key_length": size.head, "attention.value_length": size.head}
        more["rope.dimension_count"] = size.head
    else:
        more = {"attention.causal": False, "pooling_type": 1}
        found["tokenizer.ggml.token_type_count"] = 2
    if arch in EXPERTS:
        more |= {"expert_count": size.experts, "expert_used_count": size.used}
    if arch in ("qwen3moe", "qwen2moe", "gpt-oss"):
        more["expert_feed_forward_length"] = size.ff
    if arch == "qwen2moe":
        more["expert_shared_feed_forward_length"] = size.shared or 2 * size.ff
    if arch in ("gemma2", "gemma3", "gpt-oss", "phi3", "cohere2"):
        more["attention.sliding_window"] = size.window
    if arch == "gemma2":
        more |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if arch in ("command-r", "granite", "granitemoe", "cohere2"):
        more["logit_scale"] = 0.0625
    if arch in ("granite", "granitemoe"):
        more |= {"residual_scale": 0.22, "embedding_scale": 12.0, "attention.scale": 0.0156}
    return found | {f"{name}.{key}": value for key, value in more.items()}


def tensors(arch: str, size: Size) -> Iterator[Row]:
    """Every tensor in the order of a file."""
    embd, kind = size.embd, size.kind
    yield "token_embd.weight", (embd, size.vocab), kind
    if arch in BERTS:
        yield "token_types.weight", (embd, 2), "F32"
        yield "token_embd_norm.weight", (embd,), "F32"
        yield "token_embd_norm.bias", (embd,), "F32"
        if arch == "bert":
            yield "position_embd.weight", (embd, size.context), "F32"
    else:
        yield "output_norm.weight", (embd,), "F32"
        if arch not in TIED and not size.tied:
            yield "output.weight", (embd, size.vocab), kind
    for layer in range(size.layers):
        for name, dims, of in (*_attention(arch, size), *_feed_forward(arch, size, layer)):
            yield f"blk.{layer}.{name}", dims, "F16" if of == kind and dims[0] % 32 else of


def _attention(arch: str, size: Size) -> Iterator[Row]:
    embd, kind = size.embd, size.kind
    q, kv = size.heads * size.head, size.kv_heads * size.head
    if arch not in BERTS:
        yield "attn_norm.weight", (embd,), "F32"
    if arch == "deepseek2":
        yield from _latent(size)
        return
    if arch in ("phi3", "nomic-bert"):
        yield "attn_qkv.weight", (embd, q + 2 * kv), kind
    else:
        bias = arch in ("qwen2", "qwen2moe", "gpt-oss", "bert") or size.bias
        for name, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            yield f"{name}.weight", (embd, rows), kind
            if bias:
                yield f"{name}.bias", (rows,), "F32"
    yield "attn_output.weight", (q, embd), kind
    if arch in ("gpt-oss", "bert"):
        yield "attn_output.bias", (embd,), "F32"
    if arch in ("qwen3", "qwen3moe", "gemma3"):
        yield "attn_q_norm.weight", (size.head,), "F32"
        yield "attn_k_norm.weight", (size.head,), "F32"
    if arch == "olmoe":
        yield "attn_q_norm.weight", (q,), "F32"
        yield "attn_k_norm.weight", (kv,), "F32"
    if arch in ("gemma2", "gemma3", "gpt-oss"):
        yield "post_attention_norm.weight", (embd,), "F32"
    if arch == "gpt-oss":
        yield "attn_sinks.weight", (size.heads,), "F32"
    if arch in BERTS:
        yield "attn_output_norm.weight", (embd,), "F32"
        yield "attn_output_norm.bias", (embd,), "F32"


def _latent(size: Size) -> Iterator[Row]:
    embd, kind, key = size.embd, size.kind, size.head + size.rope
    if size.q_rank:
        yield "attn_q_a.weight", (embd, size.q_rank), kind
        yield "attn_q_a_norm.weight", (size.q_rank,), "F32"
        yield "attn_q_b.weight", (size.q_rank, size.heads * key), kind
    else:
        yield "attn_q.weight", (embd, size.heads * key), kind
    yield "attn_kv_a_mqa.weight", (embd, size.kv_rank + size.rope), kind
    yield "attn_kv_a_norm.weight", (size.kv_rank,), "F32"
    yield "attn_k_b.weight", (size.head, size.kv_rank, size.heads), kind
    yield "attn_v_b.weight", (size.kv_rank, size.head, size.heads), kind
    yield "attn_output.weight", (size.heads * size.head, embd), kind


def _feed_forward(arch: str, size: Size, layer: int) -> Iterator[Row]:
    embd, ff, kind = size.embd, size.ff, size.kind
    if arch not in (*BERTS, "command-r", "gpt-oss", "cohere2"):
        yield "ffn_norm.weight", (embd,), "F32"
    if arch in EXPERTS and not (arch == "deepseek2" and layer < size.dense):
        yield from _experts(arch, size)
    elif arch == "phi3":
        yield "ffn_up.weight", (embd, 2 * ff), kind
        yield "ffn_down.weight", (ff, embd), kind
    elif arch == "bert":
        yield "ffn_up.weight", (embd, ff), kind
        yield "ffn_up.bias", (ff,), "F32"
        yield "ffn_down.weight", (ff, embd), kind
        yield "ffn_down.bias", (embd,), "F32"
    else:
        yield "ffn_gate.weight", (embd, ff), kind
        yield "ffn_up.weight", (embd, ff), kind
        yield "ffn_down.weight", (ff, embd), kind
    if arch in ("gemma2", "gemma3"):
        yield "post_ffw_norm.weight", (embd,), "F32"
    if arch in BERTS:
        yield "layer_output_norm.weight", (embd,), "F32"
        yield "layer_output_norm.bias", (embd,), "F32"


def _experts(arch: str, size: Size) -> Iterator[Row]:
    embd, ff, kind, count = size.embd, size.ff, size.kind, size.experts
    yield "ffn_gate_inp.weight", (embd, count), "F32"
    yield "ffn_gate_exps.weight", (embd, ff, count), kind
    yield "ffn_up_exps.weight", (embd, ff, count), kind
    yield "ffn_down_exps.weight", (ff, embd, count), kind
    if arch == "gpt-oss":
        yield "ffn_gate_inp.bias", (count,), "F32"
        yield "ffn_gate_exps.bias", (ff, count), "F32"
        yield "ffn_up_exps.bias", (ff, count), "F32"
        yield "ffn_down_exps.bias", (embd, count), "F32"
    if arch == "deepseek2":
        yield "exp_probs_b.bias", (count,), "F32"
    shared = {"qwen2moe": size.shared or 2 * ff, "deepseek2": (size.shared or 1) * ff}.get(arch)
    if shared:
        if arch == "qwen2moe":
            yield "ffn_gate_inp_shexp.weight", (embd,), "F32"
        yield "ffn_gate_shexp.weight", (embd, shared), kind
        yield "ffn_up_shexp.weight", (embd, shared), kind
        yield "ffn_down_shexp.weight", (shared, embd), kind
