"""Writes a GGUF model of any shape, random or sparse: run by the lab's own interpreter, which has the gguf package.

Reads one JSON object on standard input: `path`, `seed`, `sparse` and the fields of `tests.lab.models.Shape`.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import gguf  # type: ignore[import-not-found,unused-ignore]
import numpy as np  # type: ignore[import-not-found,unused-ignore]

TensorRow = tuple[str, tuple[int, ...], bool]


def words(count: int) -> tuple[list[str], list[int]]:
    """A SentencePiece vocabulary: three specials, every byte, then printable characters and made-up words."""
    kind = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256
    normal = ["▁"] + [chr(code) for code in range(33, 127)]
    normal += [f"▁w{number}" for number in range(count - len(tokens) - len(normal))]
    return (tokens + normal)[:count], ([int(k) for k in kinds] + [int(kind.NORMAL)] * len(normal))[:count]


def tensors(shape: dict[str, Any]) -> Iterator[TensorRow]:
    """Every tensor of the architecture: name, shape in NumPy's order, and whether it is quantised."""
    arch, embd, ff = shape["arch"], shape["embd"], shape["ff"]
    head = shape["head_dim"]
    queries, keys = shape["heads"] * head, shape["kv_heads"] * head
    experts, expert_ff = shape["experts"], shape["expert_ff"]
    yield "token_embd.weight", (shape["vocab"], embd), True
    yield "output_norm.weight", (embd,), False
    if arch != "gemma3":
        yield "output.weight", (shape["vocab"], embd), True
    for layer in range(shape["layers"]):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            yield f"{block}{norm}.weight", (embd,), False
        for name, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield f"{block}{name}.weight", (rows, embd), True
            if arch == "qwen2":
                yield f"{block}{name}.bias", (rows,), False
        yield f"{block}attn_output.weight", (embd, queries), True
        if arch in ("qwen3moe", "gemma3"):
            yield f"{block}attn_q_norm.weight", (head,), False
            yield f"{block}attn_k_norm.weight", (head,), False
        if arch == "gemma3":
            yield f"{block}post_attention_norm.weight", (embd,), False
            yield f"{block}post_ffw_norm.weight", (embd,), False
        if experts:
            yield f"{block}ffn_gate_inp.weight", (experts, embd), False
            yield f"{block}ffn_gate_exps.weight", (experts, expert_ff, embd), True
            yield f"{block}ffn_up_exps.weight", (experts, expert_ff, embd), True
            yield f"{block}ffn_down_exps.weight", (experts, embd, expert_ff), True
        else:
            yield f"{block}ffn_gate.weight", (ff, embd), True
            yield f"{block}ffn_up.weight", (ff, embd), True
            yield f"{block}ffn_down.weight", (embd, ff), True


def describe(writer: Any, shape: dict[str, Any]) -> None:
    """The header: what llama.cpp must know of the architecture, and the vocabulary."""
    writer.add_name(shape["name"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["embd"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ff"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape["vocab"])
    if shape["experts"]:
        writer.add_expert_count(shape["experts"])
        writer.add_expert_used_count(shape["experts_used"])
        writer.add_expert_feed_forward_length(shape["expert_ff"])
    if shape["arch"] == "gemma3":
        writer.add_sliding_window(shape["window"])
    tokens, kinds = words(shape["vocab"])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write(path: str, shape: dict[str, Any], sparse: bool, seed: int) -> None:
    """Writes the model; a sparse one has its header, its tensor table and a hole of the right size."""
    quant = gguf.GGMLQuantizationType[shape["quant"]]
    writer = gguf.GGUFWriter(path, shape["arch"])
    describe(writer, shape)
    random = np.random.default_rng(seed)
    total = 0
    for name, dims, quantised in tensors(shape):
        if sparse:
            bytes_shape = gguf.quant_shape_to_byte_shape(dims, quant) if quantised else dims
            size = int(np.prod(bytes_shape, dtype=np.int64)) * (1 if quantised else 4)
            kind = np.dtype(np.uint8 if quantised else np.float32)
            writer.add_tensor_info(name, bytes_shape, kind, size, raw_dtype=quant if quantised else None)
            total += -(-size // writer.data_alignment) * writer.data_alignment
        elif quantised:
            weights = random.standard_normal(dims, dtype=np.float32) * 0.2
            writer.add_tensor(name, gguf.quants.quantize(weights, quant), raw_dtype=quant)
        else:
            writer.add_tensor(name, 1 + random.standard_normal(dims, dtype=np.float32) * 0.05)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if sparse:
        writer.write_ti_data_to_file()
    else:
        writer.write_tensors_to_file()
    writer.close()
    if sparse:
        header = os.path.getsize(path)
        os.truncate(path, -(-header // writer.data_alignment) * writer.data_alignment + total)


if __name__ == "__main__":
    order = json.load(sys.stdin)
    write(order.pop("path"), order, order.pop("sparse"), order.pop("seed"))
