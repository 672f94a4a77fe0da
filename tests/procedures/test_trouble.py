"""Trouble by its name, with its cure, from the words that real systems say."""

from __future__ import annotations

import re

import pytest

from backends.cluster.reading import Workload
from backends.errors import RuntimeFailure
from backends.procedures import trouble
from backends.procedures.startup import plan_queue
from tests.procedures.host import Box, Host
from tests.procedures.test_queue import carried, failure, inventory, plan_for
from tests.procedures.test_runner import story
from tests.procedures.test_startup import box, snapshot
from tests.procedures.test_startup import inventory as startup_inventory


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "Docker has no driver for GPUs"),
        ("nvidia-container-cli: initialization error: nvml error: driver/library version mismatch", "driver was upd"),
        ("Bind for 127.0.0.1:3009 failed: port is already allocated", "its port is taken"),
        ("Error starting userland proxy: listen tcp4 127.0.0.1:3009: bind: address already in use", "port is taken"),
        ("couldn't bind HTTP server socket, hostname: 0.0.0.0, port: 8000", "its port is taken"),
        ("No such image: vllm/vllm-openai:latest", "its image is missing"),
        ("failed to mount local volume: mount :/models:/var/lib/docker/v/_data: no such device", "a volume of it"),
        ("invalid mount config for type bind: bind source path does not exist: /models", "a volume of it"),
        ("write /var/lib/docker/overlay2/x: no space left on device", "its node's disk is full"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 7605.33 MiB on device 0: cudaMalloc failed: out of "
         "memory", "the GPU's memory is not enough"),
        ("llama_model_load: error loading model: unable to allocate CUDA0 buffer", "the GPU's memory is not enough"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "the GPU's memory is not enough"),
        ("ValueError: Free memory on device (3.1/24.0 GiB) on startup is less than desired", "GPU's memory is not"),
        ("everything is fine", ""),
    ],
)  # fmt: skip
def test_named(words: str, named: str) -> None:
    what, cure = trouble.named(words)
    assert named in what
    assert bool(cure) == bool(named)


def test_who_has_the_port() -> None:
    error = RuntimeFailure("Docker on mark: Bind for 0.0.0.0:3009 failed: port is already allocated", status=500)
    one = Workload("a", "docker", "exited", ports=(3009, 3010))
    found = trouble.refused(one, error, [Workload("b", "docker", "running", ports=(3009,)), one])
    assert "a was not started: its port 3009 is taken by b" in found.message
    assert "docker stop b" in found.advice
    assert "its port is taken" in trouble.refused(one, error, []).message


def test_two_with_one_port_are_warned_of_in_the_plan() -> None:
    inv = startup_inventory()
    snap = snapshot(inv, (box("a", ports=(3009,)), box("b", ports=(3009, 3010)), box("c", ports=(3011,))))
    warnings = plan_queue(inv, snap, "mark").warnings
    assert "a and b both publish port 3009: only one of them can run." in warnings


def test_out_of_gpu_memory_is_found_far_above_the_last_line() -> None:
    lines = ("RuntimeError: CUDA out of memory.", *(f"  File engine.py, line {i}" for i in range(30)))
    host = Host(Box("a", says=lines, exits_after=1.0), Box("b"))
    events = carried(host, plan_for(host, "a", "b"))
    assert story(events)[-1] == "finished halted"
    assert "the GPU's memory is not enough" in failure(events)
    assert "line 29" in failure(events)


def test_out_of_gpu_memory_and_running_on() -> None:
    host = Host(Box("a", says=("cudaMalloc failed: out of memory",), hangs=True))
    events = carried(host, plan_for(host, "a", patience=20.0))
    assert re.search(r"a runs, is not ready and silent for 20 s: the GPU's memory is not enough", failure(events))


def test_unhealthy_is_named_once_nothing_moves() -> None:
    host = Host(Box("a", healthcheck=True, hangs=True, gpu=True))
    host.boxes["a"].unhealthy = True
    events = carried(host, plan_for(host, "a", patience=20.0), inventory("b"))
    assert "a is unhealthy: it runs, its health check fails" in failure(events)
    assert "docker inspect --format" in failure(events)


def test_two_that_deadlocked_are_both_named() -> None:
    async def meanwhile(host: Host) -> None:
        import asyncio

        await asyncio.sleep(0.5)
        host.begin("theirs")

    host = Host(Box("a"), Box("b"), Box("theirs"))
    events = carried(host, plan_for(host, "a", "b", patience=20.0), meanwhile=meanwhile)
    assert "most likely in CUDA initialisation" in failure(events)
    assert "and so may theirs, not ready either" in failure(events)
    assert "docker stop a; docker stop theirs" in failure(events)


def test_a_container_that_flaps_behind_its_gate_is_named() -> None:
    host = Host(Box("a", exits_after=0.3, exit_code=139, policy="always", says=("segfault soon",)))
    events = carried(host, plan_for(host, "a"))
    assert re.search(r"a keeps restarting \(3 times\): it exited.*segfault soon", failure(events))
