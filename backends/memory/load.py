"""One model as a person asks about it: what it takes of each device, what must be free, and what would help."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backends.memory.advice import Gpu, advice, kept
from backends.memory.estimate import CPU, Certainty, Device, estimate
from backends.memory.headers import Header
from backends.memory.model import Model
from backends.memory.settings import Settings, plan
from backends.memory.spoken import Buffers
from backends.memory.vllm import UTILIZATION, share

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Load:
    """What a model takes; `needs` is what must be free on each GPU, bytes by its name."""

    name: str
    arch: str
    parameters: int
    devices: tuple[Device, ...]
    certainty: Certainty
    upper: int
    needs: Mapping[str, int] = field(default_factory=dict)
    fits: bool | None = None
    advice: tuple[str, ...] = ()
    remark: str = ""


def llama_load(
    name: str, header: Header, settings: Settings, gpus: Sequence[Gpu], count: int = 1, *, advise: bool = True
) -> Load:
    """A model by llama.cpp (or Ollama, which runs it) on these GPUs; `count` is how many where none is known.

    Advice takes some dozens of estimates; `advise` says whether it is wanted.
    """
    found = estimate(header, settings, 0 if settings.gpu_layers == 0 else len(gpus) or count, kept(gpus))
    numbered = [replace(gpu, name=f"GPU{number}") for number, gpu in enumerate(gpus)]
    names = {own.name: gpu.name for own, gpu in zip(numbered, gpus, strict=True)}
    needs = {names.get(each.name, each.name): found.on(each.name) for each in found.devices if each.name != CPU}
    devices = tuple(replace(device, name=names.get(device.name, device.name)) for device in found.devices)
    fits = all(needs.get(gpu.name, 0) <= gpu.capacity for gpu in gpus) if gpus else None
    advices = tuple(advice(header, settings, numbered)) if fits is False and advise else ()
    return Load(name, found.arch, found.parameters, devices, found.certainty, found.upper, needs, fits, advices)


def told_load(
    load: Load, buffers: Sequence[Buffers], gpus: Sequence[Gpu], certainty: Certainty, remark: str, rounded: int = 0
) -> Load:
    """The same model as llama.cpp itself tells what it takes, with its driver's share beside that.

    `rounded` is by how many bytes a device's figures may be too small.
    """
    sizes: dict[str, list[int]] = {}
    for each in sorted(buffers, key=lambda each: (not each.on_gpu, each.name)):
        name = _named(each, gpus)
        before = sizes.get(name, [0, 0, 0])
        sizes[name] = [
            old + round(mib * MIB) for old, mib in zip(before, (each.weights, each.kv, each.compute), strict=True)
        ]
    devices = tuple(Device(name, *each) for name, each in sizes.items())
    needs = {device.name: device.total + kept(gpus) + rounded for device in devices if device.name != CPU}
    upper = sum(device.total + rounded for device in devices) + kept(gpus) * len(needs)
    fits = all(needs.get(gpu.name, 0) <= gpu.capacity for gpu in gpus) if gpus else None
    advices = load.advice if fits is False else ()
    return replace(
        load, devices=devices, certainty=certainty, upper=upper, needs=needs, fits=fits, advice=advices, remark=remark
    )


def _named(buffers: Buffers, gpus: Sequence[Gpu]) -> str:
    """An engine's CUDA1 is the second GPU that it was given."""
    if not buffers.on_gpu:
        return CPU
    number = int(re.sub(r"^\D+", "", buffers.name.partition("_")[0]) or 0)
    return gpus[number].name if number < len(gpus) else f"GPU{number}"


def alike(header: Header, one: Settings, other: Settings) -> bool:
    """Whether one engine makes the same of both settings for this model."""
    model = Model(header)

    def rest(settings: Settings) -> tuple[int, int, tuple[tuple[str, str], ...]]:
        layers = model.layers + 1 if settings.gpu_layers is None else settings.gpu_layers
        return min(layers, model.layers + 1), settings.cpu_moe, settings.overrides

    return plan(model, replace(one, every_output=other.every_output)) == plan(model, other) and rest(one) == rest(other)


def vllm_load(name: str, header: Header, settings: Settings, gpus: Sequence[Gpu]) -> Load:
    """A model by vLLM, shared by these GPUs; it takes its share of each, so that is what must be free."""
    each = share(header, max(1, len(gpus)), settings.context)
    kv = each.per_token * each.context
    names = [gpu.name for gpu in gpus] or ["GPU0"]
    devices = tuple(Device(gpu, each.weights, kv, each.peak) for gpu in names)
    upper = sum(device.total for device in devices)
    load = Load(name, each.arch, each.parameters, devices, "bound", upper)
    if not gpus:
        return load
    smallest = min(gpu.capacity for gpu in gpus)
    tokens, fits = each.tokens(smallest), each.fits(smallest)
    budget = f"at --gpu-memory-utilization {UTILIZATION:g}"
    remark = f"vLLM {budget} keeps room for {max(0, tokens)} tokens of cache."
    advices: tuple[str, ...] = ()
    if not fits and tokens > 0:
        advices = (f"It fits with a context of {tokens} instead of {each.context}: --max-model-len {tokens}.",)
    elif not fits:
        advices = (f"Not even its weights fit {budget}: share them among more GPUs, or take a quantised model.",)
    needs = {gpu.name: int(gpu.capacity * UTILIZATION) for gpu in gpus}
    return Load(name, each.arch, each.parameters, devices, "bound", upper, needs, fits, advices, remark)
