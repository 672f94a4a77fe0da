"""The page of models: a table where it fits, else a few lines for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from backends.cluster.inventory import Inventory
from backends.cluster.registry import Row, registry, registry_text
from backends.cluster.snapshot import ClusterSnapshot
from widgets.format import gib, model
from widgets.lines import Line, line
from widgets.markdown import wrapped

_SURE = {"declared": "", "observed": " by its log", "dry run": " by a dry run", "bound": " at most"}
"""How a figure of GPU memory is qualified; what is not here is planned."""


def models_page(inventory: Inventory, snapshot: ClusterSnapshot, width: int) -> Sequence[Line]:
    """Every model of the cluster, as wide as there is room."""
    rows = registry(inventory, snapshot)
    if not rows:
        return [line(("no endpoint names a model, and cluster.toml has none ([[models]])", "dim"))]
    head, *table = registry_text(rows)
    if max(map(cell_len, (head, *table))) <= width:
        return [line((head, "title")), *(line(row, key=str(at)) for at, row in enumerate(table))]
    return [each for at, row in enumerate(rows) for each in _block(row, width, str(at))]


def _block(row: Row, width: int, key: str) -> Iterator[Line]:
    """A model's name, where it is served, and below that all that is known of it."""
    loaded = {True: "loaded", False: "not loaded", None: ""}[row.loaded]
    yield line((f"{model(row.name)}  ", "title"), (row.endpoint or "served nowhere", ""), key=key)
    words = ", ".join(filter(None, (loaded, *_words(row))))
    yield from wrapped([(words, "dim")], width, "  ", "  ")


def _words(row: Row) -> Iterator[str]:
    yield row.quantisation or ""
    yield f"{gib(row.size_mib)} GiB" if row.size_mib else ""
    if row.vram_mib:
        sure = _SURE.get(row.vram_by or "", " planned")
        yield f"{gib(row.vram_mib)} GiB on the GPU{sure}"
    yield f"{row.context} tokens" if row.context else ""
    yield f"{row.gpu_layers} layers on the GPU" if row.gpu_layers is not None and row.gpu_layers >= 0 else ""
    yield f"batch {row.batch}" if row.batch else ""
    yield {True: "flash attention", False: "no flash attention", None: ""}[row.flash_attn]
    yield "on demand" if row.on_demand else "always on"
    yield f"for {', '.join(row.tasks)}" if row.tasks else ""
    yield row.file or ""
    yield row.volume or ""
