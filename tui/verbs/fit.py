"""`tierdeck fit`: what models will take of each device's memory, from their headers alone."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backends.errors import InventoryError, TierdeckError

if TYPE_CHECKING:
    from backends.figures import Observation
    from backends.library import Found
    from backends.memory.advice import Gpu
    from backends.memory.load import Load
    from backends.memory.settings import Settings
    from tui.verbs.opening import Opened

SCHEMA = "tierdeck.fit/1"
MIB = 1 << 20


def run(arguments: argparse.Namespace) -> int:
    """Exit 0 whether they fit or not, 1 when a model cannot be read."""
    if arguments.learned or arguments.forget:
        if arguments.models:
            raise InventoryError("--learned and --forget take no model.", "tierdeck fit --learned [--node NODE]")
        from tui.verbs.learned import run as learned

        return learned(arguments)
    if not arguments.models:
        raise InventoryError("Say which model: a file, its address or its name.", "tierdeck fit FILE --gpu 24GiB")
    from backends.memory.advice import Gpu

    arguments.node = arguments.node or arguments.dry_run_on
    opened = _opened(arguments)
    gpus = [Gpu(f"GPU{number}", _bytes(text)) for number, text in enumerate(arguments.gpu)]
    settings = _settings(arguments)
    if arguments.node and not gpus:
        gpus = _node(opened, arguments.node)
    try:
        found = asyncio.run(_find(arguments, opened))
        loads = _loads(arguments, found, settings, gpus, _known(arguments, opened))
        if opened and arguments.dry_run_on:
            loads = asyncio.run(_dry_runs(opened, arguments, found, settings, loads, gpus))
    except TierdeckError as error:
        print(f"tierdeck: {error}", file=sys.stderr)
        return 1
    fits, advices = _together(loads, gpus)
    if getattr(arguments, "json", False):
        told = {"models": [_told(load) for load in loads], "fits": fits, "advice": advices}
        print(json.dumps({"schema": SCHEMA, **told}, ensure_ascii=False))
    else:
        print("\n".join(_text(loads, gpus, advices)))
    return 0


def _opened(arguments: argparse.Namespace) -> Opened | None:
    """The inventory, where something needs one; a file or an address on named GPUs does not."""
    from backends.library import is_file
    from tui.verbs.opening import cluster_path, known_node, open_cluster

    if arguments.dry_run_on:
        opened = open_cluster(arguments)
        known_node(opened, arguments.dry_run_on)
        return opened
    plain_files = all(is_file(name) and not name.startswith(("ssh:", "volume:")) for name in arguments.models)
    if plain_files and (arguments.gpu or not arguments.node):
        return None
    if not arguments.node and not getattr(arguments, "cluster", None) and not cluster_path(arguments).exists():
        return None
    return open_cluster(arguments)


async def _find(arguments: argparse.Namespace, opened: Opened | None) -> list[Found]:
    from backends.library import library

    inventory, here = (opened.loaded.inventory, opened.here) if opened else (None, None)
    async with library(inventory, here, arguments.node) as shelf:
        return [await shelf.find(name) for name in arguments.models]


def _known(arguments: argparse.Namespace, opened: Opened | None) -> list[Observation]:
    """What engines on the node that is meant said of the models that are meant, one for each; the latest."""
    if opened is None or not arguments.node:
        return []
    from backends.figures import Figures

    figures = Figures(opened.state_dir)
    figures.refresh()
    files = {model.name: model.file for model in opened.loaded.inventory.models}
    wanted = {files.get(name, name) for name in arguments.models}
    return [each for each in figures.observations if each.node == arguments.node and each.file in wanted]


def _loads(
    arguments: argparse.Namespace,
    found: Sequence[Found],
    settings: Settings,
    gpus: Sequence[Gpu],
    known: Sequence[Observation],
) -> list[Load]:
    """Each model on the GPUs: one alone on all of them, several each where they are best placed."""
    names = list(arguments.models)
    own = [_own(settings, each, arguments) for each in found]
    spots = [list(gpus)] * len(found)
    if len(found) > 1 and len(gpus) > 1 and not settings.split:
        spots = _spots(names, found, own, gpus)
    loads = [_load(*each) for each in zip(names, found, own, spots, strict=True)]
    return [_as_seen(*each, known) for each in zip(loads, found, own, spots, strict=True)]


def _as_seen(load: Load, found: Found, settings: Settings, gpus: Sequence[Gpu], known: Sequence[Observation]) -> Load:
    """A model's load as its engine once said it, where that ran with the same settings."""
    from backends.memory.load import alike, told_load

    for each in reversed(known):
        if each.said and each.said.gpu_mib and each.file == found.file and alike(found.header, settings, each.settings):
            return told_load(load, each.said.buffers, gpus, "observed", f"As {each.container} said when it started.")
    return load


async def _dry_runs(
    opened: Opened,
    arguments: argparse.Namespace,
    found: Sequence[Found],
    settings: Settings,
    loads: Sequence[Load],
    gpus: Sequence[Gpu],
) -> list[Load]:
    """Each model as llama.cpp on a node tells it; one after the other, and vLLM's models as they are."""
    from backends.memory.dryrun import ROUNDED
    from backends.memory.load import told_load
    from backends.world import World

    told, node = [], arguments.dry_run_on
    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        for each, load in zip(found, loads, strict=True):
            if each.safetensors:
                told.append(load)
                continue
            buffers = await world.dry_run(node, each.file or load.name, _own(settings, each, arguments))
            told.append(told_load(load, buffers, gpus, "dry run", f"As llama.cpp on {node} laid it out.", ROUNDED))
    return told


def _load(name: str, found: Found, settings: Settings, gpus: Sequence[Gpu]) -> Load:
    from backends.memory.headers import HeaderError
    from backends.memory.load import llama_load, vllm_load

    try:
        if found.safetensors:
            return vllm_load(name, found.header, settings, gpus)
        shares = tuple(float(gpu.capacity) for gpu in gpus) if len(gpus) > 1 else ()
        count = max(1, len(settings.split))
        return llama_load(name, found.header, replace(settings, split=settings.split or shares), gpus, count)
    except HeaderError as error:
        raise HeaderError(f"{name}: {error.message}", error.advice) from None


def _spots(
    names: Sequence[str], found: Sequence[Found], own: Sequence[Settings], gpus: Sequence[Gpu]
) -> list[list[Gpu]]:
    """Of several models on several GPUs: where each is best placed; what has no place is shared by all of them."""
    from backends.memory.placement import Room, Wish, place

    wishes = []
    for number, each in enumerate(zip(names, found, own, strict=True)):
        need = max(_load(*each, gpus[:1]).needs.values(), default=0)
        wishes.append(Wish(str(number), need))
    spots = place(wishes, [Room(gpu.name, "", gpu.capacity) for gpu in gpus]).spots
    return [[gpu for gpu in gpus if spots[wish.name] in (gpu.name, None)] for wish in wishes]


def _own(settings: Settings, found: Found, arguments: argparse.Namespace) -> Settings:
    """The settings, with what the inventory or the engine says of this model where the command line does not."""
    layers = settings.gpu_layers if arguments.gpu_layers else found.gpu_layers
    return replace(settings, context=settings.context or found.context, gpu_layers=layers)


def _together(loads: Sequence[Load], gpus: Sequence[Gpu]) -> tuple[bool | None, list[str]]:
    remarks = [load.remark for load in loads if load.remark]
    if not gpus:
        return None, remarks
    fits = all(sum(load.needs.get(gpu.name, 0) for load in loads) <= gpu.capacity for gpu in gpus)
    fits = fits and all(load.fits is not False for load in loads)
    if fits or len(loads) == 1:
        return fits, [*remarks, *(line for load in loads for line in load.advice)]
    lines = [f"{load.name}: {line}" for load in loads for line in load.advice]
    return False, [*remarks, *lines, *_leaving(loads, gpus)]


def _leaving(loads: Sequence[Load], gpus: Sequence[Gpu]) -> list[str]:
    """Which of several models could stay, and which would have to leave."""
    from backends.memory.placement import Room, Wish, place

    wishes = [Wish(str(number), max(load.needs.values(), default=0)) for number, load in enumerate(loads)]
    found = place(wishes, [Room(gpu.name, "", gpu.capacity) for gpu in gpus])
    out = [loads[number].name for number in range(len(loads)) if found.spots[str(number)] is None]
    stay = [loads[number].name for number in range(len(loads)) if found.spots[str(number)] is not None]
    if not stay or not out:
        return ["Together they do not fit, though they might one by one."]
    return [f"Together they do not fit. {', '.join(stay)} would, without {', '.join(out)}."]


def _node(opened: Opened | None, name: str) -> list[Gpu]:
    """Each GPU of a node: its size as the inventory says, else as its driver does, and what that keeps, as learned."""
    from backends.errors import ReachError
    from backends.figures import Figures
    from backends.memory.advice import Gpu
    from backends.world import survey

    node = opened.loaded.inventory.node_named.get(name) if opened else None
    if opened is None or node is None:
        raise InventoryError(f"The inventory has no node {name!r}.")
    if not node.vram and node.gpus == "none":
        return []
    sizes = [(size, "") for size in node.vram]
    if not sizes:
        seen = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir)).nodes[name]
        sizes = [(gpu.memory_total_mib, gpu.name) for gpu in seen.gpus if gpu.memory_total_mib]
        if not sizes:
            why = seen.gpus_trouble.message if seen.gpus_trouble else f"{name}: its driver names no GPU with a size."
            raise ReachError(why, "Say the sizes with --gpu, or as vram in cluster.toml.")
    figures = Figures(opened.state_dir)
    figures.refresh()
    return [Gpu(f"GPU{number}", int(mib * MIB), figures.driver(name, gpu)) for number, (mib, gpu) in enumerate(sizes)]


def _bytes(text: str) -> int:
    """`24GiB`, `24576MiB`, `24GB`, or plain bytes."""
    units = {"GIB": 1 << 30, "MIB": 1 << 20, "GB": 10**9, "MB": 10**6, "G": 1 << 30, "M": 1 << 20, "": 1}
    number = text.rstrip("GgIiMmBb ")
    try:
        size = float(number) * units[text[len(number) :].strip().upper()]
    except (KeyError, ValueError):
        size = 0.0
    if not 1 <= size < 1 << 50:
        raise InventoryError(f"--gpu {text} is no size of memory.", "Write it as 24GiB or 24576MiB.")
    return int(size)


def _settings(arguments: argparse.Namespace) -> Settings:
    from backends.memory.profiles import profile
    from backends.memory.settings import Settings

    try:
        layers = None if arguments.gpu_layers in (None, "all") else int(arguments.gpu_layers)
        split = tuple(float(part) for part in arguments.tensor_split.split(",")) if arguments.tensor_split else ()
    except ValueError:
        raise InventoryError("--gpu-layers takes a number or all, --tensor-split numbers with commas.") from None
    if (layers or 0) < 0 or not all(0 <= part < float("inf") for part in split):
        raise InventoryError("--gpu-layers and --tensor-split take no negative numbers.")
    flash = arguments.flash_attn == "on"
    if not flash and arguments.cache_type_v not in ("f16", "f32", "bf16"):
        raise InventoryError("llama.cpp keeps quantised values only with flash attention.", "Add --flash-attn on.")
    return Settings(
        context=arguments.ctx,
        parallel=arguments.parallel,
        unified=arguments.unified,
        batch=arguments.batch,
        ubatch=arguments.ubatch,
        cache_k=arguments.cache_type_k,
        cache_v=arguments.cache_type_v,
        flash=flash,
        gpu_layers=layers,
        split=split,
        cpu_moe=arguments.cpu_moe,
        overrides=tuple(_override(part) for each in arguments.override_tensor for part in each.split(",")),
        every_output=profile(_build(arguments.build)).every_output,
    )


def _override(text: str) -> tuple[str, str]:
    name, _, device = text.partition("=")
    if not name or not device:
        raise InventoryError(
            f"--override-tensor {text} names no device.", r"As in --override-tensor 'ffn_.*_exps=CPU'."
        )
    return name, device


def _build(text: str | None) -> int | None:
    from backends.memory.profiles import build_of

    build = build_of(text if text and text.startswith("b") else f"b{text}") if text else None
    if text and build is None:
        raise InventoryError(f"--build {text} is no build of llama.cpp.", "As in --build b11549.")
    return build


def _mib(size: int) -> float:
    return round(size / MIB, 2)


def _told(load: Load) -> dict[str, Any]:
    devices = [
        {
            "name": device.name,
            "weights_mib": _mib(device.weights),
            "kv_mib": _mib(device.kv),
            "compute_mib": _mib(device.compute),
        }
        for device in load.devices
    ]
    return {
        "file": load.name,
        "arch": load.arch,
        "parameters": load.parameters,
        "devices": devices,
        "certainty": load.certainty,
        "upper_mib": -(-load.upper * 100 // MIB) / 100,
    }


def _text(loads: Sequence[Load], gpus: Sequence[Gpu], advices: Sequence[str]) -> list[str]:
    from backends.text import plain

    lines = []
    for load in loads:
        billions = load.parameters / 1e9
        lines.append(plain(f"{load.name}  {load.arch}  {billions:.2f} B parameters  ({load.certainty})"))
        for device in load.devices:
            parts = zip(("weights", "kv", "compute"), (device.weights, device.kv, device.compute), strict=True)
            lines.append(f"  {device.name:<5} {'  '.join(f'{part} {_mib(size):>10.2f}' for part, size in parts)}  MiB")
        lines.append(f"  have {-(-load.upper * 100 // MIB) / 100:.2f} MiB free in total")
    for gpu in gpus:
        taken = sum(load.needs.get(gpu.name, 0) for load in loads)
        word = "fits" if taken <= gpu.capacity else "does not fit"
        share = f"{taken / MIB / 1024:.2f} of {gpu.capacity / MIB / 1024:.2f} GiB, {100 * taken / gpu.capacity:.0f}%"
        lines.append(f"{gpu.name}: {word}: {share}, with {gpu.driver / MIB:.0f} MiB that its driver keeps")
    return [*lines, *(plain(line) for line in advices)]
