"""The graphs that llama.cpp builds, architecture by architecture, as far as memory goes.

What a layer computes is read off its tensors (a bias adds, a norm divides, experts route); what tensors do not show is
in `STYLES`. After src/llama-graph.cpp and src/models of llama.cpp b11549.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backends.memory.graph import Graph, Tensor
from backends.memory.model import Model
from backends.memory.quants import Kind
from backends.memory.settings import Plan


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


class Builder:
    """Builds one graph; `device_of` says where a layer is computed, and the output as layer L."""

    def __init__(self, model: Model, plan: Plan, device_of: Callable[[int], int] = lambda _: 0) -> None:
        self.model, self.plan, self._device_of = model, plan, device_of
        self.graph = Graph()
        self.style = STYLES.get(model.arch, Style())
        self.positions = self.graph.input(plan.tokens)
        self.outputs = self.graph.input(plan.outputs)
        self._caches = {windowed: _Cache(self, windowed) for windowed in (False, True)}

    def build(self) -> Graph:
        """The whole graph."""
        now = self._embedded()
        for layer in range(self.model.layers):
            self.graph.device = self._device_of(layer)
            last = layer == self.model.layers - 1
            now = self._encoder(now, layer, last) if self.model.arch in ENCODERS else self._decoder(now, layer, last)
        self.graph.device = self._device_of(self.model.layers)
        if self.model.arch in ENCODERS:
            self._pooled(now)
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
            now = self._norm(now, "token_embd_norm")
        return now

    def _norm(self, of: Tensor, name: str) -> Tensor:
        now = self.graph.like(of) if self.model.root_mean_square else self.graph.op(of.ne, of)
        for part in ("weight", "bias"):
            if f"{name}.{part}" in self.model.tensors:
                now = self.graph.like(now)
        return now

    def _linear(self, of: Tensor, layer: int, name: str) -> Tensor:
        tensor = self.model.of(layer, f"{name}.weight")
        rows = tensor.dims[1] if tensor and len(tensor.dims) > 1 else 1
        return self._biased(self.graph.times(rows, of), layer, name)

    def _biased(self, now: Tensor, layer: int, name: str, *more: Tensor) -> Tensor:
        return self.graph.like(now, *more) if self.model.of(layer, f"{name}.bias") else now

    def _has(self, layer: int, name: str) -> bool:
        return self.model.of(layer, f"{name}.weight") is not None

    def _decoder(self, before: Tensor, layer: int, last: bool) -> Tensor:
        graph, style, block = self.graph, self.style, f"blk.{layer}"
        normed = self._norm(before, f"{block}.attn_norm")
        now = self._latent(normed, layer) if self.model.latent else self._attention(normed, layer)
        now = self._linear(now, layer, "attn_output")
        residual = before
        if last:
            now, residual = self._chosen(now), self._chosen(before)
            if style.parallel:
                normed = self._chosen(normed)
        if style.parallel:
            fed = self._fed(normed, layer)
            return graph.like(graph.like(fed, residual), now)
        if self._has(layer, "post_attention_norm") and self._has(layer, "ffn_norm"):
            now = self._norm(now, f"{block}.post_attention_norm")
        now = self._residual(now, residual)
        fed = self._norm(now, f"{block}.ffn_norm" if self._has(layer, "ffn_norm") else f"{block}.post_attention_norm")
        fed = self._fed(fed, layer)
        if self._has(layer, "post_ffw_norm"):
            fed = self._norm(fed, f"{block}.post_ffw_norm")
        return graph.like(now, fed) if style.residual_last else self._residual(fed, now)

    def _residual(self, now: Tensor, before: Tensor) -> Tensor:
        if self.model.number("residual_scale"):
            now = self.graph.like(now)
        return self.graph.like(now, before)

    def _chosen(self, of: Tensor) -> Tensor:
        return self.graph.op((of.ne[0], self.plan.outputs), of, self.outputs)

    def _attention(self, normed: Tensor, layer: int) -> Tensor:
        model, graph = self.model, self.graph
        cache = self._caches[model.windowed(layer)]
        key, value = model.key_length(layer), model.value_length(layer)
        heads, kv_heads = model.heads(layer), model.kv_heads(layer)
        if self._has(layer, "attn_qkv"):
            q, k, v = self._fused(normed, layer)
        else:
            q = self._head_norm(self._linear(normed, layer, "attn_q"), layer, "attn_q_norm", key, heads)
            k = self._head_norm(self._linear(normed, layer, "attn_k"), layer, "attn_k_norm", key, kv_heads)
            v = graph.view(self._linear(normed, layer, "attn_v"), (value, kv_heads, self.plan.tokens))
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

    def _fused(self, normed: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        model, graph, tokens = self.model, self.graph, self.plan.tokens
        key, heads, kv_heads = model.key_length(layer), model.heads(layer), model.kv_heads(layer)
        both = self._linear(normed, layer, "attn_qkv")

        def part(count: int, first: int) -> Tensor:
            return graph.view(
                both, (key, count, tokens), (4, 4 * key, both.nb[1], both.nb[1] * tokens), 4 * key * first
            )

        return part(heads, 0), part(kv_heads, heads), part(kv_heads, heads + kv_heads)

    def _head_norm(self, now: Tensor, layer: int, name: str, length: int, heads: int) -> Tensor:
        norm, shape = self.model.of(layer, f"{name}.weight"), (length, heads, self.plan.tokens)
        if norm and norm.dims[0] == length and length != now.ne[0]:
            return self._norm(self.graph.view(now, shape), f"blk.{layer}.{name}")
        if norm:
            now = self._norm(now, f"blk.{layer}.{name}")
        return self.graph.view(now, shape)

    def _attend(self, cache: _Cache, q: Tensor, value: int, layer: int) -> Tensor:
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
        if self._has(layer, "attn_q_a"):
            q = self._linear(normed, layer, "attn_q_a")
            q = self._linear(self._norm(q, f"blk.{layer}.attn_q_a_norm"), layer, "attn_q_b")
        else:
            q = self._linear(normed, layer, "attn_q")
        length = q.ne[0] // heads
        q = graph.view(q, (length, heads, tokens))
        plain = graph.permute(graph.view(q, (length - rope, heads, tokens), q.nb), 0, 2, 1, 3)
        absorbed = graph.permute(graph.op((rank, tokens, heads), plain), 0, 2, 1, 3)
        turned = graph.like(graph.view(q, (rope, heads, tokens), q.nb, 4 * (length - rope)), self.positions)
        q = graph.op((rank + rope, heads, tokens), absorbed, turned)
        both = self._linear(normed, layer, "attn_kv_a_mqa")
        value = graph.view(both, (rank, tokens), both.nb)
        value = graph.view(self._norm(value, f"blk.{layer}.attn_kv_a_norm"), (rank, 1, tokens))
        turned = graph.view(both, (rope, 1, tokens), (4, both.nb[1], both.nb[1], both.nb[2]), 4 * rank)
        k = graph.op((rank + rope, 1, tokens), value, graph.like(turned, self.positions))
        for tensor in (q, value, k):
            graph.expand(tensor)
        cache.store_key(graph.view(k, (rank + rope, tokens)))
        return self._attend(cache, q, rank, layer)

    def _fed(self, now: Tensor, layer: int) -> Tensor:
        if not self._has(layer, "ffn_gate_inp"):
            return self._feed_forward(now, layer, "")
        routed = self._experts(now, layer)
        if not self._has(layer, "ffn_up_shexp"):
            return routed
        shared = self._feed_forward(now, layer, "_shexp")
        if self._has(layer, "ffn_gate_inp_shexp"):
            opened = self.graph.times(1, now)
            shared = self.graph.like(shared, self.graph.like(self.graph.like(opened), opened))
        return self.graph.like(routed, shared)

    def _feed_forward(self, now: Tensor, layer: int, suffix: str) -> Tensor:
        graph = self.graph
        down = self.model.of(layer, f"ffn_down{suffix}.weight")
        if self._has(layer, f"ffn_gate{suffix}"):
            gate = self._linear(now, layer, f"ffn_gate{suffix}")
            up = self._linear(now, layer, f"ffn_up{suffix}")
            now = graph.op(gate.ne, gate, up)
        else:
            up = self._linear(now, layer, f"ffn_up{suffix}")
            fused = down is not None and up.ne[0] == 2 * down.dims[0]
            now = graph.op((up.ne[0] // 2, *up.ne[1:]), up) if fused else graph.like(up)
        return self._linear(now, layer, f"ffn_down{suffix}")

    def _experts(self, now: Tensor, layer: int) -> Tensor:
        graph, model, tokens = self.graph, self.model, now.ne[1]
        used = max(1, model.used_experts)
        chances = self._linear(now, layer, "ffn_gate_inp")
        if not self.style.soft_max_after:
            chances = graph.like(chances)
        picked = graph.like(chances) if model.of(layer, "exp_probs_b.bias") else chances
        order = graph.op(picked.ne, picked)
        chosen = graph.view(order, (used, tokens), order.nb)
        weights = graph.op((1, used, tokens), graph.view(chances, (1, chances.ne[0], tokens)), chosen)
        weights = self._weighted(weights, used, tokens)
        graph.expand(weights)
        now = graph.view(now, (now.ne[0], 1, tokens))
        gated = model.of(layer, "ffn_gate_up_exps.weight")
        if gated:
            both = self._expert(now, layer, "ffn_gate_up_exps", used, chosen)
            now = graph.op((both.ne[0] // 2, *both.ne[1:]), both)
        else:
            up_first = None
            gate = self._expert(now, layer, "ffn_gate_exps", used, chosen)
            up_first = self._expert(now, layer, "ffn_up_exps", used, chosen)
            now = graph.op(gate.ne, gate, up_first)
        now = graph.like(self._expert(now, layer, "ffn_down_exps", used, chosen), weights)
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

    def _weighted(self, weights: Tensor, used: int, tokens: int) -> Tensor:
        graph, model = self.graph, self.model
        flat = graph.view(weights, (used, tokens))
        if self.style.soft_max_after:
            weights = graph.view(graph.like(flat), (1, used, tokens))
        elif model.flag("expert_weights_norm") if model.arch == "deepseek2" else self.style.norm_weights:
            total = graph.like(graph.op((1, tokens), flat))
            weights = graph.view(graph.like(flat, total), (1, used, tokens))
        scale = model.number("expert_weights_scale")
        return graph.like(weights) if scale not in (0.0, 1.0) else weights

    def _expert(self, now: Tensor, layer: int, name: str, used: int, chosen: Tensor) -> Tensor:
        tensor = self.model.of(layer, f"{name}.weight")
        rows = tensor.dims[1] if tensor and len(tensor.dims) > 1 else 1
        now = self.graph.op((rows, used, now.ne[2]), now, chosen)
        return self._biased(now, layer, name, chosen)

    def _encoder(self, before: Tensor, layer: int, last: bool) -> Tensor:
        graph, model, block, tokens = self.graph, self.model, f"blk.{layer}", self.plan.tokens
        key, heads, kv_heads = model.key_length(layer), model.heads(layer), model.kv_heads(layer)
        if self._has(layer, "attn_qkv"):
            q, k, v = self._fused(before, layer)
        else:
            q, k, v = (
                graph.view(self._linear(before, layer, name), (key, count, tokens))
                for name, count in (("attn_q", heads), ("attn_k", kv_heads), ("attn_v", kv_heads))
            )
        if "position_embd.weight" not in model.tensors:
            q, k = graph.like(q, self.positions), graph.like(k, self.positions)
        for tensor in (q, k, v):
            graph.expand(tensor)
        now = self._linear(self._attend_here(q, k, v, layer), layer, "attn_output")
        if last:
            now, before = self._chosen(now), self._chosen(before)
        now = self._norm(graph.like(now, before), f"{block}.attn_output_norm")
        fed = self._feed_forward(now, layer, "")
        return self._norm(graph.like(fed, now), f"{block}.layer_output_norm")

    def _attend_here(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        graph, tokens = self.graph, self.plan.tokens
        heads, mask = self.model.heads(layer), self._caches[False].mask
        asked = graph.permute(graph.view(q, q.ne, q.nb), 0, 2, 1, 3)
        k, v = graph.permute(k, 0, 2, 1, 3), graph.permute(v, 0, 2, 1, 3)
        if self.plan.flash:
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

    def _pooled(self, now: Tensor) -> None:
        graph, plan = self.graph, self.plan
        now.output = True
        if self.model.pooling == 1:
            turned = graph.op((now.ne[1], now.ne[0]), graph.permute(now, 1, 0, 2, 3))
            now = graph.op((now.ne[0], plan.parallel), turned, graph.input(plan.tokens, plan.parallel))
        elif self.model.pooling > 1:
            now = graph.op((now.ne[0], plan.parallel), now, graph.input(plan.parallel))
        now.output = True
        graph.expand(now)

    def _logits(self, now: Tensor) -> None:
        graph, model = self.graph, self.model
        now = self._norm(now, "output_norm")
        now.output = True
        now = graph.times(model.vocab, now)
        for _ in range(3 if model.number("final_logit_softcapping") else int(self.style.scaled_logits)):
            now = graph.like(now)
        now.output = True
        graph.expand(now)


class _Cache:
    """What the graph needs of one cache: where rows go, and what may see what."""

    def __init__(self, builder: Builder, windowed: bool) -> None:
        plan, graph = builder.plan, builder.graph
        self._graph, self._flash = graph, plan.flash
        self.cells = plan.window_cells if windowed else plan.cells
        each = plan.tokens // plan.streams
        self._keys = graph.input(plan.tokens, item=8)
        widest = max(builder.model.value_length(n) * builder.model.kv_heads(n) for n in range(builder.model.layers))
        self._values = graph.input(plan.tokens if plan.flash else plan.tokens * widest, item=8)
        item = 2 if plan.flash else 4
        if builder.model.arch in ENCODERS:
            self.mask = graph.input(plan.tokens, plan.tokens, item=item)
        else:
            self.mask = graph.input(self.cells, each, 1, plan.streams, item=item)
        self._plan, self._model = plan, builder.model
        longest = builder.model.key_length(0)
        self._key_mixer = self._mixer(plan.key, longest, longest & -longest)
        self._value_mixer = self._mixer(plan.value, builder.model.value_length(0), 64)

    def _mixer(self, kind: Kind, length: int, side: int) -> Tensor | None:
        """Rows are spread by a matrix before they are quantised, where their length allows it."""
        if kind.block == 1 or length % 64 or self._model.latent:
            return None
        return self._graph.input(side, side)

    def mixed_keys(self, rows: Tensor) -> Tensor:
        """Keys, or what asks them, as the cache holds them."""
        return self._mixed(rows, self._key_mixer)

    def mixed_values(self, rows: Tensor) -> Tensor:
        """Values as the cache holds them, and back."""
        return self._mixed(rows, self._value_mixer)

    def _mixed(self, rows: Tensor, mixer: Tensor | None) -> Tensor:
        if mixer is None:
            return rows
        flat = self._graph.view(rows, (mixer.ne[0], rows.size // 4 // mixer.ne[0]))
        return self._graph.view(self._graph.op(flat.ne, mixer, flat), rows.ne)

    def halved(self, layer: int, value: int) -> list[Tensor]:
        """Copies in 16 bits of what is kept in 32, which flash attention cannot read."""
        plan, heads = self._plan, self._model.kv_heads(layer)
        lengths = ((plan.key, self._model.key_length(layer)), (plan.value, value))
        wide = [length for kind, length in lengths if kind.name == "F32"]
        return [self._graph.op((length, self.cells, heads, plan.streams), item=2) for length in wide]

    def store_key(self, rows: Tensor) -> None:
        """Write keys."""
        self._graph.store(rows, self._keys)

    def store_value(self, v: Tensor, width: int) -> None:
        """Write values; without flash attention one by one, because they are kept turned."""
        tokens = v.ne[2]
        rows = self._graph.view(v, (width, tokens))
        if not self._flash:
            rows = self._graph.view(rows, (1, width * tokens))
        self._graph.store(rows, self._values)
