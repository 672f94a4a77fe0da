"""What a model will take of each device's memory, derived from its header and the engine's settings.

Weights and caches are sums over the header's tensors; compute buffers come from laying out the engine's own graph.
All figures are bytes. After llama.cpp b11549; other builds differ by their inputs, seldom by more than a few MiB.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import accumulate
from string import ascii_letters
from typing import Literal

from backends.memory.headers import Header, HeaderError, Tensor
from backends.memory.layers import Builder
from backends.memory.layout import reserve
from backends.memory.model import Model
from backends.memory.quants import CACHE_TYPES, Kind, row_bytes
from backends.memory.settings import Plan, Settings, plan
from backends.memory.styles import ENCODERS, KNOWN

Certainty = Literal["header", "bound", "dry run", "observed"]
"""`header`: derived, of an architecture whose graph is known; `bound`: an upper bound of one that is not;
`dry run`: llama.cpp's own, which loads nothing; `observed`: as the engine said when it ran with these settings."""

CPU = "CPU"
PROJECTOR = "clip"
"""What files call themselves that turn pictures into tokens (mmproj)."""
CONTEXT_BYTES = 555 << 20
"""What a driver keeps per process and GPU beside the buffers, until it is learned: the most of llama.cpp#23604."""
_PAGES = 32 << 10
"""What a device's buffers lose at their edges."""
_CPU_ALIGNMENT, _GPU_ALIGNMENT, _GPU_ROW = 32, 128, 512


@dataclass(frozen=True, slots=True)
class Device:
    """One device's share."""

    name: str
    weights: int
    kv: int
    compute: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.compute


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model takes: `devices` GPUs first, then the CPU; `upper` is what should be free in total."""

    arch: str
    parameters: int
    layers: int
    devices: tuple[Device, ...]
    certainty: Certainty
    upper: int
    beside: int
    plan: Plan

    def on(self, name: str) -> int:
        """What must be free on a GPU, with what the driver keeps and what is taken in passing; 0 if unused."""
        total = sum(device.total for device in self.devices if device.name == name)
        return total + self.beside if total else 0


def estimate(header: Header, settings: Settings, gpus: int = 1, driver: int = CONTEXT_BYTES) -> Estimate:
    """Estimate a model on so many GPUs, whose driver keeps so much; HeaderError where the header is of no model."""
    if header.arch == PROJECTOR:
        return _projector(header, settings, gpus)
    model = Model(header)
    rounded = plan(model, settings)
    placement = _Placement(model, settings, gpus)
    weights, kv = placement.weights(), _caches(model, rounded, placement)
    compute = _compute(model, rounded, placement)
    names = [CPU, *(f"GPU{number}" for number in range(gpus))]
    devices = [
        Device(name, weights[index], kv[index], compute[index])
        for index, name in enumerate(names)
        if weights[index] or kv[index] or index == 0
    ]
    certainty: Certainty = "header" if model.arch in KNOWN else "bound"
    if certainty == "bound":
        devices = [replace(device, compute=max(device.compute, _widest(model, rounded)) * 3 // 2) for device in devices]
    beside = driver + placement.staged() + _unpacked(model, rounded) + _in_flight(model, rounded, len(devices) - 1)
    upper = (
        sum(device.total for device in devices)
        + _outputs(model, rounded)
        + beside * (len(devices) - 1)
        + _PAGES * len(devices)
    )
    parameters = sum(tensor.elements for tensor in header.tensors)
    ordered = (*devices[1:], devices[0])
    return Estimate(model.arch, parameters, model.layers, ordered, certainty, upper, beside, rounded)


def _projector(header: Header, settings: Settings, gpus: int) -> Estimate:
    """A bound of what turns pictures into tokens: its process is that of its model, its graph one picture's."""

    def number(key: str) -> int:
        value = header.values.get(f"clip.vision.{key}", 0)
        return value if isinstance(value, int) and 0 <= value < 1 << 20 else 0

    patches = (number("image_size") // max(1, number("patch_size"))) ** 2
    wide = 8 * number("embedding_length") + 2 * number("feed_forward_length")
    compute = 4 * (patches * wide + 2 * number("attention.head_count") * patches**2)
    weights = sum(tensor.size for tensor in header.tensors)
    device = Device("GPU0" if gpus and settings.gpu_layers != 0 else CPU, weights, 0, compute)
    parameters = sum(tensor.elements for tensor in header.tensors)
    half = CACHE_TYPES["f16"]
    none = Plan(0, 1, 0, 0, 0, 0, 1, settings.flash, half, half)
    upper = device.total + _PAGES
    return Estimate(header.arch, parameters, number("block_count"), (device,), "bound", upper, 0, none)


class _Placement:
    """Which device holds what: 0 is the CPU, then the GPUs."""

    def __init__(self, model: Model, settings: Settings, gpus: int) -> None:
        self._model, self._cpu_moe, self._gpus = model, settings.cpu_moe, gpus
        self._overrides = [(_pattern(name), _device_of(device, gpus)) for name, device in settings.overrides]
        layers = model.layers + 1
        wanted = layers if settings.gpu_layers is None else min(settings.gpu_layers, layers)
        self._offloaded = wanted if gpus else 0
        shares = [*settings.split[:gpus], *([0.0] * (gpus - len(settings.split)))] if settings.split else [1.0] * gpus
        total = sum(shares) or 1.0
        self._ends = [end / total for end in accumulate(shares)]

    def layer(self, layer: int) -> int:
        """The device of a layer; the output is layer L."""
        first = self._model.layers + 1 - self._offloaded
        if not self._offloaded or layer < first:
            return 0
        return min(bisect_right(self._ends, (layer - first) / self._offloaded), self._gpus - 1) + 1

    def weights(self) -> defaultdict[int, int]:
        """Bytes by device."""
        found: defaultdict[int, int] = defaultdict(int)
        for tensor in self._model.header.tensors:
            device = self._device(tensor)
            if device is not None:
                found[device] += _stored(tensor, device)
        tied = self._model.tensors.get("token_embd.weight")
        device = self.layer(self._model.layers)
        if tied:
            device = self._overridden(tied, device)
        if tied and device and "output.weight" not in self._model.tensors and self._model.arch not in ENCODERS:
            found[device] += _stored(tied, device)
        return found

    def staged(self) -> int:
        """Room for a weight that lies with the CPU while a GPU computes with it."""
        here = [tensor for tensor in self._model.header.tensors if self._device(tensor) == 0]
        return max((tensor.size for tensor in here if tensor.name.startswith("blk.")), default=0) * bool(
            self._offloaded
        )

    def _overridden(self, tensor: Tensor, device: int) -> int:
        """The device of the first pattern that a name has anywhere in it, else the one where it would go."""
        return next((there for pattern, there in self._overrides if pattern.search(tensor.name)), device)

    def _device(self, tensor: Tensor) -> int | None:
        device = self._usual(tensor)
        return None if device is None else self._overridden(tensor, device)

    def _usual(self, tensor: Tensor) -> int | None:
        parts = tensor.name.split(".")
        if parts[0] != "blk" or len(parts) < 3 or not parts[1].isdecimal():
            return self.layer(self._model.layers) if parts[0].startswith("output") else 0
        layer = int(parts[1])
        if layer >= self._model.layers:
            return None
        experts = parts[2] in ("ffn_up_exps", "ffn_down_exps", "ffn_gate_exps", "ffn_gate_up_exps")
        return 0 if experts and layer < self._cpu_moe else self.layer(layer)


def _pattern(name: str) -> re.Pattern[str]:
    try:
        return re.compile(name)
    except re.error as error:
        raise HeaderError(f"the pattern {name} of tensors to move makes no sense: {error}.") from None


def _device_of(name: str, gpus: int) -> int:
    """A device by llama.cpp's name for it: CPU, CUDA0, ROCm1, Vulkan0."""
    if name == CPU or name.endswith("_Host") or not gpus:
        return 0
    number = int(name.lstrip(ascii_letters) or 0) if name.isalnum() and name[-1].isdecimal() else gpus
    if number < gpus:
        return number + 1
    raise HeaderError(f"tensors shall go to {name}, and there is no such device.", "Devices are CPU, CUDA0, CUDA1, ...")


def _stored(tensor: Tensor, device: int) -> int:
    size, alignment = tensor.size, _GPU_ALIGNMENT if device else _CPU_ALIGNMENT
    if device and tensor.kind.block > 1 and tensor.dims[0] % _GPU_ROW:
        size += row_bytes(tensor.kind, _GPU_ROW - tensor.dims[0] % _GPU_ROW)
    return -(-size // alignment) * alignment


def _caches(model: Model, plan: Plan, placement: _Placement) -> defaultdict[int, int]:
    found: defaultdict[int, int] = defaultdict(int)
    for layer in range(model.layers) if model.arch not in ENCODERS else ():
        device = placement.layer(layer)
        found[device] += _cache(model, plan, layer) + _state(model, plan, layer)
    return found


def _cache(model: Model, plan: Plan, layer: int) -> int:
    cells = (plan.window_cells if model.windowed(layer) else plan.cells) * plan.streams
    if model.latent:
        return _rows(plan.key, model.latent + model.rope, cells)
    names = ("attn_k.weight", "attn_qkv.weight", "attn_kv_b.weight", "attn_k_b.weight")
    if model.arch not in KNOWN and not any(model.of(layer, name) for name in names):
        return 0
    heads = model.kv_heads(layer)
    keys, values = heads * model.key_length(layer), heads * model.value_length(layer)
    return _rows(plan.key, keys, cells) + _rows(plan.value, values, cells)


def _rows(kind: Kind, length: int, count: int) -> int:
    return row_bytes(kind, length) * count


def _state(model: Model, plan: Plan, layer: int) -> int:
    """A recurrent layer's state, in 32 bits."""
    if model.of(layer, "time_mix_key.weight"):
        return 4 * plan.parallel * model.embd * (2 + int(model.number("wkv.head_size")))
    if not (model.of(layer, "ssm_a") or model.of(layer, "ssm_conv1d.weight")):
        return 0
    inner, state = int(model.number("ssm.inner_size")), int(model.number("ssm.state_size"))
    conv = (int(model.number("ssm.conv_kernel")) - 1) * (inner + 2 * int(model.number("ssm.group_count")) * state)
    return 4 * plan.parallel * (max(0, conv) + inner * state)


def _unpacked(model: Model, plan: Plan) -> int:
    """CUDA's flash attention unpacks one layer of a quantised cache into 16 bits (llama.cpp#23907, #24166)."""
    if not plan.flash or plan.key.block == plan.value.block == 1 or model.arch in ENCODERS:
        return 0
    half = replace(plan, key=CACHE_TYPES["f16"], value=CACHE_TYPES["f16"])
    return max(_cache(model, half, layer) for layer in range(model.layers))


def _in_flight(model: Model, plan: Plan, gpus: int) -> int:
    """Several GPUs work at four batches at once, each with inputs of its own; the graph has those of one."""
    if gpus < 2:
        return 0
    mask = (2 if plan.flash else 4) * plan.tokens * (plan.cells + plan.window_cells)
    return 3 * (4 * plan.tokens * model.embd + mask)


def _widest(model: Model, plan: Plan) -> int:
    """What passes through a recurrent layer, of which no graph is known: all that its matrices take in and give."""
    layers: defaultdict[int, int] = defaultdict(int)
    for name, tensor in model.tensors.items():
        parts = name.split(".")
        if parts[0] == "blk" and parts[1].isdecimal() and len(tensor.dims) == 2:
            layers[int(parts[1])] += sum(tensor.dims)
    recurrent = [
        layer for layer in layers if not (model.of(layer, "attn_k.weight") or model.of(layer, "attn_qkv.weight"))
    ]
    return 4 * plan.tokens * max((layers[layer] for layer in recurrent), default=0)


def _outputs(model: Model, plan: Plan) -> int:
    """What the engine hands out: each sequence's logits, and its embedding where it makes one."""
    return 4 * plan.parallel * (model.vocab + (model.embd if model.arch in ENCODERS else 0))


def _compute(model: Model, plan: Plan, placement: _Placement) -> tuple[int, ...]:
    alignments = (_CPU_ALIGNMENT, *([_GPU_ALIGNMENT] * placement._gpus))
    return reserve(Builder(model, plan, placement.layer).build(), alignments)
