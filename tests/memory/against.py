"""One drawn model, estimated and measured: what the laboratory's test and the bench compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from backends.memory.estimate import estimate
from backends.memory.headers import Header
from backends.memory.settings import Settings
from tests.memory.cases import draw_settings, draw_size
from tests.memory.files import header_of
from tests.memory.gguf_files import write
from tests.memory.models import BERTS, Size, metadata, tensors
from tests.memory.oracle import Measured, NotTaken, measure

MIB = 1 << 20
TRIES = 8


@dataclass(frozen=True, slots=True)
class Difference:
    """Estimated less measured, in MiB; `share` is the total's, of the total."""

    arch: str
    flash: bool
    weights: float
    kv: float
    compute: float
    share: float


async def difference(python: str, arch: str, seed: str, folder: Path) -> Difference:
    """Draw until the engine takes the model (it refuses some quantised caches), estimate, and measure."""
    size, settings, measured = taken(python, arch, seed, folder)
    path = write(folder / f"{arch}.gguf", metadata(arch, size), tensors(arch, size))
    return compared(arch, settings, await header_of(path), measured)


def taken(python: str, arch: str, seed: str, folder: Path) -> tuple[Size, Settings, Measured]:
    """The first model and settings drawn from the seed that the engine takes, and what they took."""
    random = Random(f"{seed} {arch}")
    for _ in range(TRIES):
        size, settings = draw_size(random, arch), draw_settings(random, arch)
        path = write(folder / f"{arch}.gguf", metadata(arch, size), tensors(arch, size))
        try:
            return size, settings, measure(python, path, settings, embedding=arch in BERTS)
        except NotTaken:
            continue
    raise AssertionError(f"llama.cpp took none of {TRIES} models of {arch}")


def compared(arch: str, settings: Settings, header: Header, measured: Measured) -> Difference:
    """The estimate of all on the CPU, less what was measured."""
    estimated = estimate(header, settings, gpus=0)
    (device,) = estimated.devices
    return Difference(
        arch,
        settings.flash,
        device.weights / MIB - measured.weights,
        device.kv / MIB - measured.kv,
        device.compute / MIB - measured.compute,
        estimated.upper / MIB / measured.total - 1,
    )
