"""Layers of models that read a text as a whole and keep no cache, and what they sum it up to."""

from __future__ import annotations

from backends.memory.blocks import Blocks
from backends.memory.graph import Tensor


def encoder(blocks: Blocks, before: Tensor, layer: int, last: bool, mask: Tensor) -> Tensor:
    """What leaves a layer; `mask` tells which tokens see each other."""
    graph, model, block, tokens = blocks.graph, blocks.model, f"blk.{layer}", blocks.plan.tokens
    key, heads, kv_heads = model.key_length(layer), model.heads(layer), model.kv_heads(layer)
    if blocks.has(layer, "attn_qkv"):
        q, k, v = blocks.fused(before, layer)
    else:
        q, k, v = (
            graph.view(blocks.linear(before, layer, name), (key, count, tokens))
            for name, count in (("attn_q", heads), ("attn_k", kv_heads), ("attn_v", kv_heads))
        )
    if "position_embd.weight" not in model.tensors:
        q, k = graph.like(q, blocks.positions), graph.like(k, blocks.positions)
    for tensor in (q, k, v):
        graph.expand(tensor)
    now = blocks.linear(_attended(blocks, q, k, v, layer, mask), layer, "attn_output")
    if last:
        now, before = blocks.chosen(now), blocks.chosen(before)
    now = blocks.norm(graph.like(now, before), f"{block}.attn_output_norm")
    fed = blocks.feed_forward(now, layer, "")
    return blocks.norm(graph.like(fed, now), f"{block}.layer_output_norm")


def _attended(blocks: Blocks, q: Tensor, k: Tensor, v: Tensor, layer: int, mask: Tensor) -> Tensor:
    graph, tokens, heads = blocks.graph, blocks.plan.tokens, blocks.model.heads(layer)
    asked = graph.permute(graph.view(q, q.ne, q.nb), 0, 2, 1, 3)
    k, v = graph.permute(k, 0, 2, 1, 3), graph.permute(v, 0, 2, 1, 3)
    if blocks.plan.flash:
        k, v = (graph.op(tensor.ne, tensor, item=2) for tensor in (k, v))
        now = graph.op((v.ne[0], heads, tokens), asked, k, v, mask)
    else:
        v = graph.op((tokens, v.ne[0], v.ne[2]), graph.permute(v, 1, 0, 2, 3))
        scores = graph.like(graph.op((tokens, tokens, heads), k, asked), mask)
        now = graph.op((v.ne[1], tokens, heads), v, scores)
        now = graph.op((v.ne[1] * heads, tokens), graph.permute(now, 0, 2, 1, 3))
    now = graph.view(now, (now.size // 4 // tokens, tokens))
    graph.expand(now)
    return now


def pooled(blocks: Blocks, now: Tensor) -> None:
    """Sums up all tokens' rows as the model asks for it, and ends the graph."""
    graph, plan, pooling = blocks.graph, blocks.plan, blocks.model.pooling
    now.output = True
    if pooling == 1:
        turned = graph.op((now.ne[1], now.ne[0]), graph.permute(now, 1, 0, 2, 3))
        now = graph.op((now.ne[0], plan.parallel), turned, graph.input(plan.tokens, plan.parallel))
    elif pooling > 1:
        now = graph.op((now.ne[0], plan.parallel), now, graph.input(plan.parallel))
    now.output = True
    graph.expand(now)
