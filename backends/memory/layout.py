"""Lays a graph out in memory as ggml's graph allocator does, and says how much each device must reserve.

Best fit among the gaps, else the end; a tensor's room is free again when its last reader is done; a result may take
the place of an operand of the same layout that nobody else reads. After ggml-alloc.c of llama.cpp b11549.
"""

from __future__ import annotations

from bisect import bisect

from backends.memory.graph import Graph, Tensor

_ENDLESS = 1 << 62
_OUTSIDE = -1
"""The place of what was never here, or has passed its room on."""


class _Room:
    """One device's memory: gaps in the order of their offsets, the last one endless."""

    def __init__(self, alignment: int) -> None:
        self.alignment, self.peak = alignment, 0
        self.starts, self.sizes = [0], [_ENDLESS]

    def padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment

    def take(self, size: int) -> int:
        size = self.padded(size)
        best, fit = len(self.sizes) - 1, _ENDLESS
        for index, gap in enumerate(self.sizes[:-1]):
            if size <= gap <= fit:
                best, fit = index, gap
        at = self.starts[best]
        self.starts[best] += size
        self.sizes[best] -= size
        if not self.sizes[best]:
            del self.starts[best], self.sizes[best]
        self.peak = max(self.peak, at + size)
        return at

    def give(self, at: int, size: int) -> None:
        size = self.padded(size)
        if not size:
            return
        index = bisect(self.starts, at)
        before = index > 0 and self.starts[index - 1] + self.sizes[index - 1] == at
        after = index < len(self.starts) and at + size == self.starts[index]
        if before and after:
            self.sizes[index - 1] += size + self.sizes[index]
            del self.starts[index], self.sizes[index]
        elif before:
            self.sizes[index - 1] += size
        elif after:
            self.starts[index] = at
            self.sizes[index] += size
        else:
            self.starts.insert(index, at)
            self.sizes.insert(index, size)


def reserve(graph: Graph, alignments: tuple[int, ...] = (32,)) -> tuple[int, ...]:
    """Bytes of each device's compute buffer; a graph is laid out once."""
    rooms = tuple(_Room(alignment) for alignment in alignments)
    for tensor in graph.inputs:
        _place(tensor, rooms)
    for node in graph.nodes:
        if node.view:
            node.view.views += 1
        for source in node.src:
            source.children += 1
    for node in graph.nodes:
        _place(node, rooms)
        for source in node.src:
            source.children -= 1
            if not source.children and not source.views:
                _release(source, rooms)
    return tuple(room.peak for room in rooms)


def _place(node: Tensor, rooms: tuple[_Room, ...]) -> None:
    if node.view or node.place is not None:
        return
    room = rooms[node.device]
    for parent in node.src if node.inplace else ():
        if _takes_over(node, parent):
            node.place, parent.place = parent.place, _OUTSIDE
            return
    node.place = room.take(node.size)


def _takes_over(node: Tensor, parent: Tensor) -> bool:
    if parent.view or parent.place in (None, _OUTSIDE) or parent.output or parent.device != node.device:
        return False
    same = node.item == parent.item and node.ne == parent.ne and node.nb == parent.nb
    return same and parent.children == 1 and not parent.views


def _release(tensor: Tensor, rooms: tuple[_Room, ...]) -> None:
    root = tensor
    if tensor.view:
        root = tensor.view
        root.views -= 1
        if root.views or root.children:
            return
    if root.place is not None and root.place != _OUTSIDE and not root.output:
        rooms[root.device].give(root.place, root.size)
        root.place = _OUTSIDE
