"""The estimator, held to what llama.cpp b11549 took (recorded by tests/memory/record.py), and to itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from backends.memory.estimate import CPU, estimate
from backends.memory.headers import Header, HeaderError, Tensor
from backends.memory.quants import KINDS
from backends.memory.settings import Settings
from tests.memory.against import compared
from tests.memory.gguf_files import TYPES
from tests.memory.models import Size, metadata, tensors
from tests.memory.oracle import Measured
from tests.memory.record import RECORDED

LINES = [json.loads(line) for line in RECORDED.read_text().splitlines()]
EVEN = Size(ff=3072)
"""Of rows that a GPU does not pad."""


def header_for(arch: str, size: Size, **more: Any) -> Header:
    rows = tuple(Tensor(name, dims, KINDS[TYPES[kind][0]]) for name, dims, kind in tensors(arch, size))
    return Header(metadata(arch, size) | more, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line["arch"])
def test_it_is_what_the_engine_took(line: dict[str, Any]) -> None:
    settings = Settings(**{**line["settings"], "split": ()})
    found = compared(
        line["arch"], settings, header_for(line["arch"], Size(**line["size"])), Measured(**line["measured"])
    )
    assert abs(found.weights) < 0.011
    assert abs(found.kv) < 0.011
    assert abs(found.compute) < (0.1 if settings.flash else 2)
    assert 0 <= found.share < 0.02


def test_what_is_offloaded_leaves_the_cpu() -> None:
    header = header_for("llama", EVEN)
    cpu = estimate(header, Settings(context=4096, gpu_layers=0), gpus=1)
    gpu = estimate(header, Settings(context=4096), gpus=1)
    assert [device.name for device in cpu.devices] == [CPU]
    first, rest = gpu.devices
    assert (first.name, rest.name, rest.kv) == ("GPU0", CPU, 0)
    assert first.weights + rest.weights == pytest.approx(cpu.devices[0].weights)
    assert rest.weights == next(tensor.size for tensor in header.tensors if tensor.name == "token_embd.weight")


def test_tied_embeddings_stand_twice() -> None:
    header = header_for("llama", replace(EVEN, tied=True))
    gpu, cpu = estimate(header, Settings(context=4096)).devices
    alone = estimate(header, Settings(context=4096, gpu_layers=0)).devices[0]
    assert gpu.weights + cpu.weights == alone.weights + cpu.weights


def test_a_split_shares_layers_as_asked() -> None:
    header = header_for("llama", Size(layers=15))
    two = estimate(header, Settings(context=4096, split=(3, 1)), gpus=2)
    first, second, _ = two.devices
    assert (first.name, second.name) == ("GPU0", "GPU1")
    assert first.kv / (first.kv + second.kv) == pytest.approx(12 / 15)


def test_experts_stay_on_the_cpu_when_asked() -> None:
    header = header_for("qwen3moe", EVEN)
    free = estimate(header, Settings(context=4096)).devices[0]
    kept = estimate(header, Settings(context=4096, cpu_moe=2)).devices[0]
    experts = sum(
        tensor.size
        for tensor in header.tensors
        if "_exps" in tensor.name and tensor.name.startswith(("blk.0.", "blk.1."))
    )
    assert free.weights - kept.weights == experts


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ((("ffn_(up|down|gate)_exps", "CPU"),), "_exps"),
        (((r"blk\.1\.", "CPU"),), "blk.1."),
        (((r"blk\.1\.", "CPU"), ("blk", "CUDA0")), "blk.1."),
        ((("blk", "ROCm0"),), "none of them"),
        ((("output", "CUDA_Host"),), "output"),
    ],
)
def test_tensors_go_where_their_names_say(overrides: tuple[tuple[str, str], ...], names: str) -> None:
    header = header_for("qwen3moe", EVEN)
    free = estimate(header, Settings(context=4096)).devices[0]
    kept = estimate(header, Settings(context=4096, overrides=overrides)).devices[0]
    assert free.weights - kept.weights == sum(tensor.size for tensor in header.tensors if names in tensor.name)


def test_the_first_pattern_counts_and_the_second_gpu_is_a_place_too() -> None:
    header = header_for("llama", EVEN)
    overrides = (("token_embd", "CUDA1"), ("token_embd", "CPU"))
    first, second, cpu = estimate(header, Settings(context=4096, split=(1, 0), overrides=overrides), 2).devices
    embd = next(tensor.size for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert (first.name, second.name, second.weights, cpu.weights) == ("GPU0", "GPU1", embd, 0)


@pytest.mark.parametrize("override", [("(", "CPU"), ("blk", "CUDA1"), ("blk", "nowhere"), ("blk", "")])
def test_what_cannot_be_moved_is_refused(override: tuple[str, str]) -> None:
    with pytest.raises(HeaderError):
        estimate(header_for("llama", EVEN), Settings(overrides=(override,)))


def test_older_builds_reserve_logits_for_every_token() -> None:
    header = header_for("qwen2", Size(vocab=152064))
    now, before = (
        estimate(header, Settings(context=4096, every_output=old)).devices[0].compute >> 20 for old in (False, True)
    )
    assert 290 <= before <= 320, "512 tokens of 152,064 logits in 32 bits are 297 MiB"
    assert now < 150


def test_of_an_unknown_kind_only_a_bound_is_promised() -> None:
    known = header_for("llama", Size())
    values = {key.replace("llama.", "newcomer."): value for key, value in known.values.items()}
    newcomer = replace(known, values=values | {"general.architecture": "newcomer"})
    bound, exact = (estimate(header, Settings(context=4096), gpus=0) for header in (newcomer, known))
    assert (bound.certainty, exact.certainty) == ("bound", "header")
    assert exact.upper < bound.upper < 1.3 * exact.upper


def test_experts_without_number_are_refused() -> None:
    header = header_for("qwen3moe", Size(), **{"qwen3moe.expert_used_count": 1 << 30})
    with pytest.raises(HeaderError, match="experts"):
        estimate(header, Settings())


@pytest.mark.parametrize(
    ("key", "value"),
    [("block_count", 0), ("block_count", 1 << 30), ("embedding_length", "wide"), ("attention.head_count", -4)],
)
def test_a_header_that_makes_no_sense_is_refused(key: str, value: object) -> None:
    header = header_for("llama", Size(), **{f"llama.{key}": value})
    with pytest.raises(HeaderError):
        estimate(header, Settings())


def test_nothing_is_estimated_of_an_empty_header() -> None:
    with pytest.raises(HeaderError):
        estimate(Header({}, ()), Settings())


def test_a_projector_has_weights_and_a_bound() -> None:
    numbers = {"image_size": 336, "patch_size": 14, "embedding_length": 1024, "feed_forward_length": 4096}
    values = {f"clip.vision.{key}": value for key, value in numbers.items()} | {"clip.vision.attention.head_count": 16}
    header = Header(values | {"general.architecture": "clip"}, (Tensor("v.w", (1024, 300_000), KINDS[1]),))
    found = estimate(header, Settings())
    (device,) = found.devices
    assert (device.name, device.weights, device.kv, found.certainty) == ("GPU0", 1024 * 300_000 * 2, 0, "bound")
    assert 0 < device.compute < 200 << 20
    assert estimate(header, Settings(gpu_layers=0)).devices[0].name == CPU
