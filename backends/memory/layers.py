"""The graphs that llama.cpp builds, architecture by architecture, as far as memory goes.

What a layer computes is read off its tensors (a bias adds, a norm divides, experts route); what tensors do not show is
in `STYLES`. After src/llama-graph.cpp and src/models of llama.cpp b11549.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.memory.blocks import Blocks
from backends.memory.caches import Cache
from backends.memory.encoder import encoder, pooled
from backends.memory.experts import fed
from backends.memory.graph import Graph, Tensor
from backends.memory.model import Model
from backends.memory.settings import Plan
from backends.memory.styles import ENCODERS, UNROTATED


class Builder(Blocks):
    """Builds one graph; `device_of` says where a layer is computed, and the output as layer L."""

    def __init__(self, model: Model, plan: Plan, device_of: Callable[[int], int] = lambda _: 0) -> None:
        super().__init__(model, plan)
        self._device_of = device_of
        self._caches = {windowed: Cache(self.graph, model, plan, windowed) for windowed in (False, True)}

    def build(self) -> Graph:
        """The whole graph."""
        now, reads = self._embedded(), self.model.arch in ENCODERS
        for layer in range(self.model.layers):
            self.graph.device = self._device_of(layer)
            last = layer == self.model.layers - 1
            now = (
                encoder(self, now, layer, last, self._caches[False].mask) if reads else self._decoder(now, layer, last)
            )
        self.graph.device = self._device_of(self.model.layers)
        if reads:
            pooled(self, now)
        else:
            self._logits(now)
        return self.graph

    def _embedded(self) -> Tensor:
        graph, plan, embd = self.graph, self.plan, self.model.embd
        tokens, mixed = graph.input(plan.tokens), graph.input(plan.tokens)
        slots, given, rows = (
            graph.input(plan.tokens, item=8),
            graph.input(embd, plan.tokens),
            graph.input(embd, plan.tokens),
        )
        now = graph.op((embd, plan.tokens), tokens)
        looked_up, copied = graph.op((embd, plan.tokens), mixed), graph.op((embd, plan.tokens), rows)
        for tensor in (now, looked_up, given, Tensor(copied.ne, (looked_up, slots, copied), view=copied)):
            graph.expand(tensor)
        if self.style.scaled_input:
            now = graph.like(now)
        if self.model.arch in ENCODERS:
            if "token_types.weight" in self.model.tensors:
                now = graph.like(now)
            if "position_embd.weight" in self.model.tensors:
                now = graph.like(graph.op((embd, plan.tokens), self.positions), now)
            now = self.norm(now, "token_embd_norm")
        return now

    def _decoder(self, before: Tensor, layer: int, last: bool) -> Tensor:
        graph, style, block = self.graph, self.style, f"blk.{layer}"
        normed = self.norm(before, f"{block}.attn_norm")
        now = self._latent(normed, layer) if self.model.latent else self._attention(normed, layer)
        now = self.linear(now, layer, "attn_output")
        residual = before
        if last:
            now, residual = self.chosen(now), self.chosen(before)
            if style.parallel:
                normed = self.chosen(normed)
        if style.parallel:
            return graph.like(graph.like(fed(self, normed, layer), residual), now)
        if self.has(layer, "post_attention_norm") and self.has(layer, "ffn_norm"):
            now = self.norm(now, f"{block}.post_attention_norm")
        now = self._residual(now, residual)
        made = self.norm(now, f"{block}.ffn_norm" if self.has(layer, "ffn_norm") else f"{block}.post_attention_norm")
        made = fed(self, made, layer)
        if self.has(layer, "post_ffw_norm"):
            made = self.norm(made, f"{block}.post_ffw_norm")
        return graph.like(now, made) if style.residual_last else self._residual(made, now)

    def _residual(self, now: Tensor, before: Tensor) -> Tensor:
        if self.model.number("residual_scale"):
            now = self.graph.like(now)
        return self.graph.like(now, before)

    def _attention(self, normed: Tensor, layer: int) -> Tensor:
        model, graph = self.model, self.graph
        cache = self._caches[model.windowed(layer)]
        key, value = model.key_length(layer), model.value_length(layer)
        heads, kv_heads = model.heads(layer), model.kv_heads(layer)
        if self.has(layer, "attn_qkv"):
            q, k, v = self.fused(normed, layer)
        else:
            q = self._head_norm(self.linear(normed, layer, "attn_q"), layer, "attn_q_norm", key, heads)
            k = self._head_norm(self.linear(normed, layer, "attn_k"), layer, "attn_k_norm", key, kv_heads)
            v = graph.view(self.linear(normed, layer, "attn_v"), (value, kv_heads, self.plan.tokens))
        if model.windowed(layer) or model.arch not in UNROTATED:
            q, k = graph.like(q, self.positions), graph.like(k, self.positions)
        if self.style.scaled_query:
            q = graph.like(q)
        q, k, v = cache.mixed_keys(q), cache.mixed_keys(k), cache.mixed_values(v)
        for tensor in (q, k, v) if model.window else (q, v, k):
            graph.expand(tensor)
        cache.store_key(graph.view(k, (key * kv_heads, self.plan.tokens)))
        cache.store_value(v, value * kv_heads)
        return self._attend(cache, q, value, layer)

    def _head_norm(self, now: Tensor, layer: int, name: str, length: int, heads: int) -> Tensor:
        norm, shape = self.model.of(layer, f"{name}.weight"), (length, heads, self.plan.tokens)
        if norm and norm.dims[0] == length and length != now.ne[0]:
            return self.norm(self.graph.view(now, shape), f"blk.{layer}.{name}")
        if norm:
            now = self.norm(now, f"blk.{layer}.{name}")
        return self.graph.view(now, shape)

    def _attend(self, cache: Cache, q: Tensor, value: int, layer: int) -> Tensor:
        graph, heads, streams = self.graph, self.model.heads(layer), self.plan.streams
        each = self.plan.tokens // streams
        split = graph.view(q, (q.ne[0], heads, each, streams), (4, q.nb[1], q.nb[2], q.nb[2] * each))
        asked = graph.permute(split, 0, 2, 1, 3)
        latent = self.model.latent
        if self.plan.flash:
            now = graph.op((value, heads, each, streams), asked, *cache.halved(layer, value), cache.mask)
            if latent:
                now = self._absorbed(graph.permute(now, 0, 2, 1, 3), layer)
                now = graph.op((now.ne[0], heads, each, streams), graph.permute(now, 0, 2, 1, 3))
        else:
            scores = graph.op((cache.cells, each, heads, streams), asked)
            if self.style.soft_capped:
                scores = graph.like(graph.like(graph.like(scores)))
            read = (graph.op((cache.cells, latent, 1, streams), item=self.plan.key.size),) if latent else ()
            now = graph.op((value, each, heads, streams), *read, graph.like(scores, cache.mask))
            if latent:
                now = self._absorbed(now, layer)
            now = graph.op((now.ne[0] * heads, self.plan.tokens), graph.permute(now, 0, 2, 1, 3))
        now = graph.view(now, (now.size // 4 // self.plan.tokens, self.plan.tokens))
        graph.expand(now)
        return cache.mixed_values(now)

    def _absorbed(self, now: Tensor, layer: int) -> Tensor:
        tensor = self.model.of(layer, "attn_v_b.weight")
        return self.graph.times(tensor.dims[1] if tensor else now.ne[0], now)

    def _latent(self, normed: Tensor, layer: int) -> Tensor:
        model, graph, tokens = self.model, self.graph, self.plan.tokens
        heads, rank, rope = model.heads(layer), model.latent, model.rope
        cache = self._caches[False]
        if self.has(layer, "attn_q_a"):
            q = self.linear(normed, layer, "attn_q_a")
            q = self.linear(self.norm(q, f"blk.{layer}.attn_q_a_norm"), layer, "attn_q_b")
        else:
            q = self.linear(normed, layer, "attn_q")
        length = q.ne[0] // heads
        q = graph.view(q, (length, heads, tokens))
        plain = graph.permute(graph.view(q, (length - rope, heads, tokens), q.nb), 0, 2, 1, 3)
        absorbed = graph.permute(graph.op((rank, tokens, heads), plain), 0, 2, 1, 3)
        turned = graph.like(graph.view(q, (rope, heads, tokens), q.nb, 4 * (length - rope)), self.positions)
        q = graph.op((rank + rope, heads, tokens), absorbed, turned)
        both = self.linear(normed, layer, "attn_kv_a_mqa")
        value = graph.view(both, (rank, tokens), both.nb)
        value = graph.view(self.norm(value, f"blk.{layer}.attn_kv_a_norm"), (rank, 1, tokens))
        turned = graph.view(both, (rope, 1, tokens), (4, both.nb[1], both.nb[1], both.nb[2]), 4 * rank)
        k = graph.op((rank + rope, 1, tokens), value, graph.like(turned, self.positions))
        for tensor in (q, value, k):
            graph.expand(tensor)
        cache.store_key(graph.view(k, (rank + rope, tokens)))
        return self._attend(cache, q, rank, layer)

    def _logits(self, now: Tensor) -> None:
        graph, model = self.graph, self.model
        now = self.norm(now, "output_norm")
        now.output = True
        now = graph.times(model.vocab, now)
        for _ in range(3 if model.number("final_logit_softcapping") else int(self.style.scaled_logits)):
            now = graph.like(now)
        now.output = True
        graph.expand(now)
