"""What an engine computes in one batch, as a graph of tensors without their numbers.

llama.cpp sizes its compute buffers by laying out such a graph once, in the order in which it will run; so does this.
Weights and caches live elsewhere and take no part. The order of nodes, views and what may overwrite what follow ggml.c.
"""

from __future__ import annotations

Shape = tuple[int, int, int, int]


class Tensor:
    """A result, an input or a view of one; sizes in bytes, `device` is where it is computed."""

    __slots__ = (
        "children",
        "device",
        "given",
        "inplace",
        "item",
        "nb",
        "ne",
        "offset",
        "output",
        "place",
        "src",
        "view",
        "views",
    )

    def __init__(
        self,
        ne: Shape,
        src: tuple[Tensor, ...] = (),
        *,
        item: int = 4,
        device: int = 0,
        inplace: bool = False,
        view: Tensor | None = None,
        nb: Shape | None = None,
        offset: int = 0,
    ) -> None:
        self.ne, self.src, self.item, self.device, self.inplace, self.offset = ne, src, item, device, inplace, offset
        self.nb = nb or (item, item * ne[0], item * ne[0] * ne[1], item * ne[0] * ne[1] * ne[2])
        self.view: Tensor | None = (view.view or view) if view else None
        self.given = self.output = False
        self.children = self.views = 0
        self.place: int | None = None

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.item * self.ne[0] * self.ne[1] * self.ne[2] * self.ne[3]


class Graph:
    """Tensors in the order in which they are computed; what is made is on `device` until that is changed."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.nodes: list[Tensor] = []
        self.device = 0
        self._seen: set[int] = set()
        self._copies: dict[tuple[int, int], Tensor] = {}

    def input(self, *ne: int, item: int = 4) -> Tensor:
        """What the program fills in before each batch, in the CPU's memory."""
        tensor = Tensor(_shape(ne), item=item)
        tensor.given = True
        return tensor

    def op(self, ne: tuple[int, ...], *src: Tensor, item: int = 4, inplace: bool = False) -> Tensor:
        """A result; `inplace` where it may overwrite an operand that nobody else wants."""
        here = tuple(self._here(tensor) for tensor in src)
        return Tensor(_shape(ne), here, item=item, device=self.device, inplace=inplace)

    def like(self, first: Tensor, *more: Tensor) -> Tensor:
        """A result of the shape of its first operand that may overwrite it: a sum, a product, a norm, a rotation."""
        return self.op(first.ne, first, *more, inplace=True)

    def times(self, rows: int, operand: Tensor) -> Tensor:
        """A matrix of weights with so many rows, times the operand."""
        return self.op((rows, *operand.ne[1:]), operand)

    def store(self, *src: Tensor) -> None:
        """Write into a cache, which takes no room of this graph."""
        tensor = self.op((1,), *src)
        tensor.place = -1
        self.expand(tensor)

    def view(self, of: Tensor, ne: tuple[int, ...], nb: Shape | None = None, offset: int = 0) -> Tensor:
        """The same bytes in another shape."""
        here = self._here(of)
        return Tensor(
            _shape(ne), (here,), item=of.item, device=here.device, view=here, nb=nb, offset=here.offset + offset
        )

    def permute(self, of: Tensor, *axes: int) -> Tensor:
        """The same bytes with axis i moved to `axes[i]`."""
        ne, nb = [0] * 4, [0] * 4
        for source, target in enumerate(axes):
            ne[target], nb[target] = of.ne[source], of.nb[source]
        return self.view(of, tuple(ne), (nb[0], nb[1], nb[2], nb[3]))

    def expand(self, tensor: Tensor) -> None:
        """Put a tensor, and first all it depends on, at the end of the order."""
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        for source in tensor.src:
            self.expand(source)
        (self.inputs if tensor.given else self.nodes).append(tensor)

    def _here(self, tensor: Tensor) -> Tensor:
        """The tensor, or its copy on this device, made once for each device."""
        if tensor.device == self.device or tensor.place == -1:
            return tensor
        key = id(tensor), self.device
        if key not in self._copies:
            self._copies[key] = Tensor(tensor.ne, (tensor,), item=tensor.item, device=self.device)
        return self._copies[key]


def _shape(ne: tuple[int, ...]) -> Shape:
    full = (*ne, 1, 1, 1)
    return full[0], full[1], full[2], full[3]
