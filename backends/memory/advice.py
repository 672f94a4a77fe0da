"""Whether models fit, and if not, which settings would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backends.memory.estimate import CONTEXT_BYTES, Estimate, estimate
from backends.memory.headers import Header
from backends.memory.settings import CELLS, Settings

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its name in an estimate, and its bytes: those that models may take, those its driver keeps of them."""

    name: str
    capacity: int
    driver: int = CONTEXT_BYTES


def kept(gpus: Sequence[Gpu]) -> int:
    """What to reckon with for each GPU's driver: the most of them."""
    return max((gpu.driver for gpu in gpus), default=CONTEXT_BYTES)


def fits(estimates: Sequence[Estimate], gpus: Sequence[Gpu]) -> bool:
    """Whether all of them go onto these GPUs at once."""
    return all(sum(each.on(gpu.name) for each in estimates) <= gpu.capacity for gpu in gpus)


def advice(header: Header, settings: Settings, gpus: Sequence[Gpu]) -> list[str]:
    """What would make one model fit, the mildest change first; nothing where it fits, or where nothing helps."""

    def fitting(changed: Settings) -> bool:
        return fits([estimate(header, changed, len(gpus), kept(gpus))], gpus)

    if fitting(settings):
        return []
    found = []
    now = estimate(header, settings, len(gpus), kept(gpus))
    if settings.flash and settings.cache_k == settings.cache_v == "f16":
        smaller = replace(settings, cache_k="q8_0", cache_v="q8_0")
        if fitting(smaller):
            found.append("It fits with an 8-bit cache: --cache-type-k q8_0 --cache-type-v q8_0.")
    context = now.plan.context
    steps = _most(context // CELLS, lambda count: fitting(replace(settings, context=count * CELLS)))
    if steps:
        found.append(f"It fits with a context of {steps * CELLS} instead of {context}: --ctx-size {steps * CELLS}.")
    wanted = now.layers + 1 if settings.gpu_layers is None else min(settings.gpu_layers, now.layers + 1)
    layers = _most(wanted, lambda count: fitting(replace(settings, gpu_layers=count)))
    if layers:
        found.append(f"It fits with {layers} of its {now.layers + 1} layers on the GPU: --n-gpu-layers {layers}.")
    return found or ["Not one of its layers fits beside its cache: run it on the CPU, or take a smaller model."]


def _most(limit: int, good: Callable[[int], bool]) -> int:
    """The largest count below `limit` that is good, 0 for none; the smaller, the better."""
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low
