"""Every model of the cluster: who serves it, where its file lies, how it is started, and whether it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.reading import ModelInfo, Workload
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint, Model

SCHEMA: Final = "tierdeck.models/1"

_QUANT = re.compile(r"(?<![a-z0-9])((?:i?q[1-8](?:_[0-9a-z]+)*)|bf16|f16|f32|mxfp4|awq|gptq|fp8)(?![a-z0-9])", re.I)
_LAZY = {"ollama", "lmstudio"}
"""Engines that load a model when it is asked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model at an endpoint, or of the inventory alone; sizes in MiB, None is "not known".

    `vram_by` tells whose figure the GPU memory is: declared by the engine, else of a prediction's certainty; `volume`
    is how full that is which the workload claims, in words.
    """

    name: str
    endpoint: str | None
    node: str | None
    quantisation: str | None
    size_mib: float | None
    vram_mib: float | None
    vram_by: str | None
    tasks: tuple[str, ...]
    file: str | None
    loaded: bool | None
    gpu_layers: int | None
    context: int | None
    batch: int | None
    flash_attn: bool | None
    on_demand: bool
    volume: str | None = None


def registry(inventory: Inventory, snapshot: ClusterSnapshot) -> list[Row]:
    """All of them, in the order of the endpoints; gateways only pass on, and have none."""
    rows, served = [], set()
    for endpoint in inventory.endpoints:
        if endpoint.engine in ("litellm", "http"):
            continue
        for info in snapshot.endpoints[endpoint.name].models:
            model = next((model for model in inventory.models if _same(model, info.name)), None)
            served.add(model.name if model else "")
            vram = _vram(snapshot, endpoint, info)
            rows.append(_row(endpoint, info, model, workload_of(snapshot, endpoint), vram))
    rows += [_unserved(model) for model in inventory.models if model.name not in served]
    return rows


def registry_json(inventory: Inventory, snapshot: ClusterSnapshot) -> dict[str, Any]:
    """The same as data: `tierdeck.models/1`."""
    return {"schema": SCHEMA, "models": [asdict(row) for row in registry(inventory, snapshot)]}


def registry_text(rows: list[Row]) -> Iterator[str]:
    """The same as a table."""
    head = (
        "model",
        "at",
        "quant",
        "GiB",
        "on GPU",
        "loaded",
        "layers",
        "context",
        "batch",
        "flash",
        "when",
        "tasks",
        "file",
    )
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    planned = "" if row.vram_by in (None, "declared", "observed") else "~"
    return (
        (row.name.rsplit("/", 1)[-1] if row.name.startswith("/") else row.name).removesuffix(".gguf"),
        row.endpoint or "nowhere",
        row.quantisation or "-",
        f"{row.size_mib / 1024:.1f}" if row.size_mib else "-",
        "-" if row.vram_mib is None else f"{planned}{row.vram_mib / 1024:.1f}",
        {True: "loaded", False: "no", None: "-"}[row.loaded],
        _figure(row.gpu_layers),
        _figure(row.context),
        _figure(row.batch),
        {True: "on", False: "off", None: "-"}[row.flash_attn],
        "on demand" if row.on_demand else "always",
        ",".join(row.tasks) or "-",
        ", ".join(filter(None, (row.file, row.volume))) or "-",
    )


def _figure(number: int | None) -> str:
    return "-" if number is None else str(number)


def _vram(snapshot: ClusterSnapshot, endpoint: Endpoint, info: ModelInfo) -> tuple[float | None, str | None]:
    """What a model holds of GPUs, and who says so; nothing of one that is not loaded."""
    if info.vram_mib is not None:
        return info.vram_mib, "declared"
    alone = len(snapshot.endpoints[endpoint.name].models) == 1
    name = info.name.rsplit("/", 1)[-1]
    here = (each for each in snapshot.predicted if each.endpoint == endpoint.name)
    found = next((each for each in here if alone or each.model in (info.name, name)), None)
    return (found.mib, found.certainty) if found and info.loaded is not False else (None, None)


def _row(
    endpoint: Endpoint,
    info: ModelInfo,
    model: Model | None,
    workload: Workload | None,
    vram: tuple[float | None, str | None],
) -> Row:
    launch = workload.launch if workload else None
    file = (launch.file if launch else None) or (model.file if model else None)
    if file is None and endpoint.engine == "ollama":
        file = f"Ollama's store on {endpoint.node}" if endpoint.node else "Ollama's store"
    return Row(
        info.name,
        endpoint.name,
        endpoint.node,
        info.quantisation or _quantisation(info.name) or _quantisation(file or ""),
        info.size_mib,
        *vram,
        endpoint.serves,
        file,
        info.loaded,
        launch.gpu_layers if launch and launch.gpu_layers is not None else model.gpu_layers if model else None,
        info.context or (launch.context if launch else None) or (model.context if model else None),
        launch.batch if launch else None,
        launch.flash if launch else None,
        model.on_demand if model else endpoint.on_demand or endpoint.engine in _LAZY,
        ", ".join(volume.words for volume in workload.volumes) or None if workload else None,
    )


def _unserved(model: Model) -> Row:
    quantisation = _quantisation(model.file)
    return Row(
        model.name, None, None, quantisation, None, None, None, (), model.file, None, model.gpu_layers, model.context,
        None, None, model.on_demand,
    )  # fmt: skip


def _same(model: Model, name: str) -> bool:
    """Whether an engine's name for a model means this one: llama.cpp names a model by its file."""
    return name == model.name or name.rsplit("/", 1)[-1] in (model.name, model.file.rsplit("/", 1)[-1])


def _quantisation(name: str) -> str | None:
    found = _QUANT.search(name.rsplit("/", 1)[-1])
    return found[1].upper() if found else None
