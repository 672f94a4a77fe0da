"""What layers of every kind are made of: norms, matrices with their biases, a feed-forward network."""

from __future__ import annotations

from backends.memory.graph import Graph, Tensor
from backends.memory.model import Model
from backends.memory.settings import Plan
from backends.memory.styles import STYLES, Style


class Blocks:
    """A graph in the making, and what every layer puts into it; names are those of the header's tensors."""

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.graph = Graph()
        self.style = STYLES.get(model.arch, Style())
        self.positions = self.graph.input(plan.tokens)
        self.outputs = self.graph.input(plan.outputs)

    def norm(self, of: Tensor, name: str) -> Tensor:
        """A norm with the weight and the bias that the header has of it."""
        now = self.graph.like(of) if self.model.root_mean_square else self.graph.op(of.ne, of)
        for part in ("weight", "bias"):
            if f"{name}.{part}" in self.model.tensors:
                now = self.graph.like(now)
        return now

    def linear(self, of: Tensor, layer: int, name: str) -> Tensor:
        """A layer's matrix times what comes in, and its bias where it has one."""
        tensor = self.model.of(layer, f"{name}.weight")
        rows = tensor.dims[1] if tensor and len(tensor.dims) > 1 else 1
        return self.biased(self.graph.times(rows, of), layer, name)

    def biased(self, now: Tensor, layer: int, name: str, *more: Tensor) -> Tensor:
        """With the bias of that name, where there is one."""
        return self.graph.like(now, *more) if self.model.of(layer, f"{name}.bias") else now

    def has(self, layer: int, name: str) -> bool:
        """Whether a layer has this weight."""
        return self.model.of(layer, f"{name}.weight") is not None

    def fused(self, normed: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of one matrix."""
        model, graph, tokens = self.model, self.graph, self.plan.tokens
        key, heads, kv_heads = model.key_length(layer), model.heads(layer), model.kv_heads(layer)
        both = self.linear(normed, layer, "attn_qkv")

        def part(count: int, first: int) -> Tensor:
            return graph.view(
                both, (key, count, tokens), (4, 4 * key, both.nb[1], both.nb[1] * tokens), 4 * key * first
            )

        return part(heads, 0), part(kv_heads, heads), part(kv_heads, heads + kv_heads)

    def chosen(self, of: Tensor) -> Tensor:
        """Only the rows that are asked for."""
        return self.graph.op((of.ne[0], self.plan.outputs), of, self.outputs)

    def feed_forward(self, now: Tensor, layer: int, suffix: str) -> Tensor:
        """A feed-forward network, gated where it has a gate."""
        graph = self.graph
        down = self.model.of(layer, f"ffn_down{suffix}.weight")
        if self.has(layer, f"ffn_gate{suffix}"):
            gate = self.linear(now, layer, f"ffn_gate{suffix}")
            up = self.linear(now, layer, f"ffn_up{suffix}")
            now = graph.op(gate.ne, gate, up)
        else:
            up = self.linear(now, layer, f"ffn_up{suffix}")
            fused = down is not None and up.ne[0] == 2 * down.dims[0]
            now = graph.op((up.ne[0] // 2, *up.ne[1:]), up) if fused else graph.like(up)
        return self.linear(now, layer, f"ffn_down{suffix}")
