"""What a graph needs of the caches for keys and values: where rows go, and what may see what."""

from __future__ import annotations

from backends.memory.graph import Graph, Tensor
from backends.memory.model import Model
from backends.memory.quants import Kind
from backends.memory.settings import Plan
from backends.memory.styles import ENCODERS


class Cache:
    """One cache, of layers with a window or of those without."""

    def __init__(self, graph: Graph, model: Model, plan: Plan, windowed: bool) -> None:
        self._graph, self._flash = graph, plan.flash
        self.cells = plan.window_cells if windowed else plan.cells
        each = plan.tokens // plan.streams
        self._keys = graph.input(plan.tokens, item=8)
        widest = max(model.value_length(n) * model.kv_heads(n) for n in range(model.layers))
        self._values = graph.input(plan.tokens if plan.flash else plan.tokens * widest, item=8)
        item = 2 if plan.flash else 4
        if model.arch in ENCODERS:
            self.mask = graph.input(plan.tokens, plan.tokens, item=item)
        else:
            self.mask = graph.input(self.cells, each, 1, plan.streams, item=item)
        self._plan, self._model = plan, model
        longest = model.key_length(0)
        self._key_mixer = self._mixer(plan.key, longest, longest & -longest)
        self._value_mixer = self._mixer(plan.value, model.value_length(0), 64)

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
