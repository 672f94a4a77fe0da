"""Pane 2: a bar for each GPU with the models on it, and plain words where a node does not tell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.cells import cell_len

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Device, Gpu, ModelInfo
from backends.cluster.snapshot import ClusterSnapshot, NodeState
from backends.cluster.tables import Endpoint, Node
from backends.memory.ledger import held_by_container, ledger
from widgets.cluster import ClusterPane
from widgets.format import age, fit, gib, model, percent
from widgets.glyphs import Glyphs
from widgets.lines import Line, line


class GpusPane(ClusterPane):
    """Draws the GPUs of every node that has some."""

    def __init__(self, inventory: Inventory, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(inventory, glyphs, "2 GPUs", id=id)

    def show(self, snapshot: ClusterSnapshot) -> None:
        """Draw this snapshot's GPUs, if anything about them changed."""
        models = tuple((name, state.models, state.serving) for name, state in snapshot.endpoints.items())
        part = (snapshot.nodes, models, snapshot.predicted)
        if part != self._slice:
            self._slice, self._snapshot = part, snapshot
            self.redraw()

    def compose_lines(self, width: int) -> Sequence[Line]:
        """Two lines a GPU: the bar with its figures, then the models on it."""
        if self._snapshot is None:
            return []
        lines: list[Line] = []
        for node in self._inventory.nodes:
            state = self._snapshot.nodes[node.name]
            if node.gpus == "none" and not state.gpus and not state.devices:
                continue
            lines.extend(self._node(node, state, width))
        return lines or [line(("no node of this cluster has GPUs (gpus = ... in [[nodes]])", "dim"))]

    def _node(self, node: Node, state: NodeState, width: int) -> list[Line]:
        key = f"node:{node.name}"
        lines = []
        for gpu in state.gpus:
            lines.append(self._bar(node, state, gpu, width, key))
            lines.extend(line((row, "dim")) for row in self._models(node, state, gpu, width))
        if state.gpus_trouble is not None:
            words = f"{node.name}  {state.gpus_trouble.message} {state.gpus_trouble.advice}"
            lines.append(line((fit(words, width, self.glyphs.ellipsis), "bad"), key=key))
        elif not state.gpus and not state.devices:
            lines.append(line((f"{node.name}  ", "title"), (f"reading{self.glyphs.ellipsis}", "dim"), key=key))
        return lines + [self._handed_out(node, device, width, key) for device in state.devices]

    def _handed_out(self, node: Node, device: Device, width: int, key: str) -> Line:
        """What a scheduler hands out of the node by numbers, and who has it."""
        fewer = f", {device.allocatable} to be had" if device.allocatable != device.capacity else ""
        words = f" {device.requested} of {device.capacity} requested{fewer}"
        held = f": {', '.join(device.holders)}" if device.holders else ""
        head = f"{node.name} {device.name}"
        return line(
            (head, "title"), (fit(words + held, max(0, width - len(head)), self.glyphs.ellipsis), "dim"), key=key
        )

    def _bar(self, node: Node, state: NodeState, gpu: Gpu, width: int, key: str) -> Line:
        total = gpu.memory_total_mib or (node.vram[gpu.index] if gpu.index < len(node.vram) else None)
        figures = f" {gib(gpu.memory_used_mib)}/{gib(total)} GiB"
        if width >= 50:
            heat = "" if gpu.temperature_c is None else f" {gpu.temperature_c:.0f}C"
            figures += f" {percent(gpu.utilization_pct):>4}{heat}"
        old = f" {age(state.gpus_unread)} old" if state.gpus_unread else ""
        name = gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
        label = f"{node.name} {gpu.index} {name}" if width >= 60 else f"{node.name} {gpu.index}"
        label = fit(label, min(len(label), 26)) + " "
        room = width - len(label) - len(figures) - len(old) - 2
        if total and gpu.memory_used_mib is not None and room >= 4:
            share = gpu.memory_used_mib / total
            books = ledger(self._inventory, self._snapshot, node, gpu) if self._snapshot else None
            told, coming = (books.attributed / total, books.reserved / total) if books else (0.0, 0.0)
            style = "dim" if old else "bad" if share > 0.97 else "warn" if share > 0.9 else "good"
            bar = self._coloured(self.glyphs.bar(share, min(room, 32), told, coming), style)
        else:
            bar = []
        return line((label, "title"), *bar, figures, (old, "warn"), key=key)

    def _coloured(self, bar: str, style: str) -> list[tuple[str, str]]:
        """What models hold, what else is in use, what starts will still take, and what is free, each in its colour."""
        glyphs = self.glyphs
        styles = {glyphs.full: style, glyphs.declared: "accent", glyphs.reserved: "warn"}
        parts = [("".join(cells), styles.get(glyph, "dim")) for glyph, cells in groupby(bar)]
        return [("[", style), *parts, ("]", style)]

    def _endpoint_models(self, node: Node) -> list[tuple[ModelInfo, Endpoint]]:
        """The models that the node's serving endpoints hold, each with its endpoint."""
        assert self._snapshot is not None
        return [
            (found, endpoint)
            for endpoint in self._inventory.endpoints_on[node.name]
            if self._snapshot.endpoints[endpoint.name].serving
            for found in self._snapshot.endpoints[endpoint.name].models
            if found.loaded is not False and endpoint.engine != "litellm"
        ]

    def _planned(self, name: str, endpoint: Endpoint) -> str:
        """What was predicted of a model, or said of it in its engine's log, where that is known."""
        assert self._snapshot is not None
        here = (each for each in self._snapshot.predicted if each.endpoint == endpoint.name)
        alone = len(self._snapshot.endpoints[endpoint.name].models) == 1
        found = next((each for each in here if alone or each.model in (name, name.rsplit("/", 1)[-1])), None)
        if found is None:
            return ""
        return f" ({'said' if found.certainty == 'observed' else 'planned'} {gib(found.mib)})"

    def _models(self, node: Node, state: NodeState, gpu: Gpu, width: int) -> list[str]:
        """What is free and what is held by which model, in as many rows as that takes."""
        words = []
        if gpu.memory_total_mib is not None and gpu.memory_used_mib is not None:
            words.append(f"free {gib(gpu.memory_total_mib - gpu.memory_used_mib)}")
        held = held_by_container(gpu, state.workloads)
        for found, endpoint in self._endpoint_models(node):
            size = found.vram_mib if found.vram_mib is not None else held.get(endpoint.container or "")
            if len(state.gpus) > 1 and endpoint.container not in held:
                continue
            figure = " on CPU" if found.vram_mib == 0 else f" {gib(size)}" if size is not None else ""
            words.append(model(found.name) + figure + self._planned(found.name, endpoint))
        books = ledger(self._inventory, self._snapshot, node, gpu) if self._snapshot else None
        words += [f"{e.endpoint.partition('/')[2] or e.endpoint} starts, {gib(e.reserved)} to come"
                  for e in (books.entries if books else ()) if e.reserved >= 1]  # fmt: skip
        return _rows(words, width, self.glyphs.ellipsis)


def _rows(words: Sequence[str], width: int, ellipsis: str) -> list[str]:
    """Words in rows of at most `width` cells, indented under their bar."""
    rows: list[str] = []
    for word in words:
        if rows and cell_len(rows[-1]) + cell_len(word) + 2 <= width:
            rows[-1] += f"  {word}"
        else:
            rows.append(f"  {word}")
    return [fit(row, width, ellipsis) for row in rows]
