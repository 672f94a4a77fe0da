"""`tierdeck fit`: what models will take of each device's memory, from their headers alone."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from backends.errors import TierdeckError

if TYPE_CHECKING:
    from backends.memory.advice import Gpu
    from backends.memory.estimate import Estimate
    from backends.memory.headers import Header
    from backends.memory.settings import Settings

SCHEMA = "tierdeck.fit/1"
MIB = 1 << 20


def run(arguments: argparse.Namespace) -> int:
    """Exit 0 whether they fit or not, 1 when a file cannot be read."""
    from backends.memory.advice import Gpu, advice, fits
    from backends.memory.estimate import estimate

    files = [_place(arguments, name) for name in arguments.models]
    capacities = _capacities(arguments)
    try:
        headers = asyncio.run(_headers(files))
    except TierdeckError as error:
        print(f"tierdeck: {error}", file=sys.stderr)
        return 1
    settings = _settings(arguments, capacities)
    count = len(capacities) or max(1, len(settings.split))
    gpus = [Gpu(f"GPU{number}", capacity) for number, capacity in enumerate(capacities)]
    estimates = []
    for file, header in zip(files, headers, strict=True):
        try:
            estimates.append(estimate(header, settings, 0 if settings.gpu_layers == 0 else count))
        except TierdeckError as error:
            print(f"tierdeck: {file}: {error}", file=sys.stderr)
            return 1
    fit = fits(estimates, gpus) if gpus else None
    advices = _advice(files, headers, settings, gpus, advice) if fit is False else []
    found = [_model(file, each) for file, each in zip(files, estimates, strict=True)]
    if getattr(arguments, "json", False):
        print(json.dumps({"schema": SCHEMA, "models": found, "fits": fit, "advice": advices}, ensure_ascii=False))
    else:
        print("\n".join((*_text(found, estimates, gpus), *advices)))
    return 0


def _advice(
    files: Sequence[str], headers: Sequence[Header], settings: Settings, gpus: Sequence[Gpu], advise: Any
) -> list[str]:
    if len(headers) == 1:
        return list(advise(headers[0], settings, gpus))
    return [
        f"Together they do not fit; {file} alone: {line}"
        for file, header in zip(files, headers, strict=True)
        for line in advise(header, settings, gpus)
    ] or ["Each of them fits alone; together they do not."]


def _place(arguments: argparse.Namespace, name: str) -> str:
    """A path or an address, or what the inventory says of a model of that name."""
    import os

    if "://" in name or os.path.exists(name) or name.endswith((".gguf", ".safetensors")) or os.sep in name:
        return name
    from backends.errors import InventoryError
    from tui.verbs.opening import open_cluster

    try:
        models = open_cluster(arguments).loaded.inventory.models
    except InventoryError:
        return name
    return next((model.file for model in models if model.name == name and model.file), name)


def _capacities(arguments: argparse.Namespace) -> list[int]:
    """Bytes of each GPU that was named, or of the node's."""
    if arguments.node and not arguments.gpu:
        return _node(arguments)
    return [_bytes(text) for text in arguments.gpu]


def _node(arguments: argparse.Namespace) -> list[int]:
    from backends.errors import InventoryError
    from backends.world import survey
    from tui.verbs.opening import open_cluster

    opened = open_cluster(arguments)
    node = next((node for node in opened.loaded.inventory.nodes if node.name == arguments.node), None)
    if node is None:
        raise InventoryError(f"The inventory has no node {arguments.node!r}.")
    if node.vram:
        return [int(mib * MIB) for mib in node.vram]
    seen = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir)).nodes.get(node.name)
    return [int(gpu.memory_total_mib * MIB) for gpu in (seen.gpus if seen else ()) if gpu.memory_total_mib]


def _bytes(text: str) -> int:
    """`24GiB`, `24576MiB`, `24GB`, or plain bytes."""
    from backends.errors import InventoryError

    units = {"GIB": 1 << 30, "MIB": 1 << 20, "GB": 10**9, "MB": 10**6, "G": 1 << 30, "M": 1 << 20, "": 1}
    number = text.rstrip("GgIiMmBb ")
    try:
        size = float(number) * units[text[len(number) :].strip().upper()]
    except (KeyError, ValueError):
        size = 0.0
    if not 0 < size < 1 << 50:
        raise InventoryError(f"--gpu {text} is no size of memory.", "Write it as 24GiB or 24576MiB.")
    return int(size)


def _settings(arguments: argparse.Namespace, capacities: Sequence[int]) -> Settings:
    from backends.errors import InventoryError
    from backends.memory.settings import Settings

    try:
        layers = None if arguments.gpu_layers == "all" else int(arguments.gpu_layers)
        split = tuple(float(part) for part in arguments.tensor_split.split(",")) if arguments.tensor_split else ()
    except ValueError:
        raise InventoryError("--gpu-layers takes a number or all, --tensor-split numbers with commas.") from None
    flash = arguments.flash_attn == "on"
    if not flash and arguments.cache_type_v not in ("f16", "f32", "bf16"):
        raise InventoryError("llama.cpp keeps quantised values only with flash attention.", "Add --flash-attn on.")
    return Settings(
        arguments.ctx,
        arguments.parallel,
        arguments.unified,
        arguments.batch,
        arguments.ubatch,
        arguments.cache_type_k,
        arguments.cache_type_v,
        flash,
        layers,
        split or (tuple(float(capacity) for capacity in capacities) if len(capacities) > 1 else ()),
        arguments.cpu_moe,
    )


async def _headers(files: Sequence[str]) -> list[Header]:
    return [await _header(file) for file in files]


async def _header(file: str) -> Header:
    from backends.memory.headers import LOCAL_LIMIT, REMOTE_LIMIT, HeaderError, merged, part_names, read_gguf
    from backends.reach.files import opened

    limit = REMOTE_LIMIT if "://" in file else LOCAL_LIMIT

    async def one(where: str) -> Header:
        try:
            async with opened(where) as read:
                return await read_gguf(read, limit)
        except HeaderError as error:
            raise HeaderError(f"{where}: {error.message}", error.advice) from None

    first = await one(file)
    if first.parts == 1:
        return first
    folder, name = file[: len(file) - len(PurePosixPath(file).name)], PurePosixPath(file).name
    return merged([await one(folder + part) for part in part_names(name, first.parts)])


def _mib(size: int) -> float:
    return round(size / MIB, 2)


def _model(file: str, each: Estimate) -> dict[str, Any]:
    devices = [
        {
            "name": device.name,
            "weights_mib": _mib(device.weights),
            "kv_mib": _mib(device.kv),
            "compute_mib": _mib(device.compute),
        }
        for device in each.devices
    ]
    return {
        "file": file,
        "arch": each.arch,
        "parameters": each.parameters,
        "devices": devices,
        "certainty": each.certainty,
        "upper_mib": -(-each.upper * 100 // MIB) / 100,
    }


def _text(found: Sequence[dict[str, Any]], estimates: Sequence[Estimate], gpus: Sequence[Gpu]) -> list[str]:
    from backends.text import plain

    lines = []
    for model in found:
        billions = model["parameters"] / 1e9
        lines.append(plain(f"{model['file']}  {model['arch']}  {billions:.2f} B parameters  ({model['certainty']})"))
        for device in model["devices"]:
            parts = (f"{part} {device[f'{part}_mib']:>10.2f}" for part in ("weights", "kv", "compute"))
            lines.append(f"  {device['name']:<5} {'  '.join(parts)}  MiB")
        lines.append(f"  have {model['upper_mib']:.2f} MiB free in total")
    for gpu in gpus:
        taken = sum(each.on(gpu.name) for each in estimates)
        word = "fits" if taken <= gpu.capacity else "does not fit"
        share = f"{taken / MIB / 1024:.2f} of {gpu.capacity / MIB / 1024:.2f} GiB, {100 * taken / gpu.capacity:.0f}%"
        lines.append(f"{gpu.name}: {word}: {share}, what the driver keeps included")
    return lines
