"""Where a layer sends each token: through its feed-forward network, or to some of its experts."""

from __future__ import annotations

from backends.memory.blocks import Blocks
from backends.memory.graph import Tensor


def fed(blocks: Blocks, now: Tensor, layer: int) -> Tensor:
    """What a layer makes of each token by itself, by one network or by experts."""
    if not blocks.has(layer, "ffn_gate_inp"):
        return blocks.feed_forward(now, layer, "")
    routed = _experts(blocks, now, layer)
    if not blocks.has(layer, "ffn_up_shexp"):
        return routed
    shared = blocks.feed_forward(now, layer, "_shexp")
    if blocks.has(layer, "ffn_gate_inp_shexp"):
        opened = blocks.graph.times(1, now)
        shared = blocks.graph.like(shared, blocks.graph.like(blocks.graph.like(opened), opened))
    return blocks.graph.like(routed, shared)


def _experts(blocks: Blocks, now: Tensor, layer: int) -> Tensor:
    graph, model, tokens = blocks.graph, blocks.model, now.ne[1]
    used = max(1, model.used_experts)
    chances = blocks.linear(now, layer, "ffn_gate_inp")
    if not blocks.style.soft_max_after:
        chances = graph.like(chances)
    picked = graph.like(chances) if model.of(layer, "exp_probs_b.bias") else chances
    order = graph.op(picked.ne, picked)
    chosen = graph.view(order, (used, tokens), order.nb)
    weights = graph.op((1, used, tokens), graph.view(chances, (1, chances.ne[0], tokens)), chosen)
    weights = _weighted(blocks, weights, used, tokens)
    graph.expand(weights)
    now = graph.view(now, (now.ne[0], 1, tokens))
    if blocks.has(layer, "ffn_gate_up_exps"):
        both = _expert(blocks, now, layer, "ffn_gate_up_exps", used, chosen)
        now = graph.op((both.ne[0] // 2, *both.ne[1:]), both)
    else:
        gate = _expert(blocks, now, layer, "ffn_gate_exps", used, chosen)
        up = _expert(blocks, now, layer, "ffn_up_exps", used, chosen)
        now = graph.op(gate.ne, gate, up)
    now = graph.like(_expert(blocks, now, layer, "ffn_down_exps", used, chosen), weights)
    graph.expand(now)
    parts = [
        graph.view(now, (now.ne[0], tokens), (4, now.nb[2], now.nb[3], now.nb[3]), 4 * n * now.ne[0])
        for n in range(used)
    ]
    for part in parts:
        graph.expand(part)
    total = parts[0]
    for part in parts[1:]:
        total = graph.like(total, part)
        graph.expand(total)
    return total if used > 1 else graph.op(total.ne, total)


def _weighted(blocks: Blocks, weights: Tensor, used: int, tokens: int) -> Tensor:
    graph, model = blocks.graph, blocks.model
    flat = graph.view(weights, (used, tokens))
    if blocks.style.soft_max_after:
        weights = graph.view(graph.like(flat), (1, used, tokens))
    elif model.flag("expert_weights_norm") if model.arch == "deepseek2" else blocks.style.norm_weights:
        total = graph.like(graph.op((1, tokens), flat))
        weights = graph.view(graph.like(flat, total), (1, used, tokens))
    scale = model.number("expert_weights_scale")
    return graph.like(weights) if scale not in (0.0, 1.0) else weights


def _expert(blocks: Blocks, now: Tensor, layer: int, name: str, used: int, chosen: Tensor) -> Tensor:
    tensor = blocks.model.of(layer, f"{name}.weight")
    rows = tensor.dims[1] if tensor and len(tensor.dims) > 1 else 1
    now = blocks.graph.op((rows, used, now.ne[2]), now, chosen)
    return blocks.biased(now, layer, name, chosen)
