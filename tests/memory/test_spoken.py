"""What engines say in their logs, in their own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.memory.spoken import Buffers, Spoken, spoken

RECORDED = Path(__file__).parents[1] / "fixtures" / "recorded" / "llamacpp-log.txt"
LOADS = (
    "0.00.007 I llama_model_loader: loaded meta data with 21 key-value pairs and 21 tensors from {} (version GGUF V3)"
)
CUDA = (
    "load_tensors:   CPU_Mapped model buffer size =   292.36 MiB",
    "load_tensors:        CUDA0 model buffer size =  7605.33 MiB",
    "llama_context: constructing llama_context",
    "llama_context:  CUDA_Host  output buffer size =     0.49 MiB",
    "llama_kv_cache:      CUDA0 KV buffer size =   448.00 MiB",
    "llama_kv_cache:      CUDA0 KV buffer size =    52.00 MiB",
    "sched_reserve:      CUDA0 compute buffer size =   304.00 MiB",
    "sched_reserve:  CUDA_Host compute buffer size =    24.01 MiB",
)
CUDA0 = Buffers("CUDA0", 7605.33, 500.0, 304.0)
OLLAMA = 'time=2026-02-13T09:28:23.487Z level=INFO source=device.go:240 msg="{}" device={} size="{}"'
STARTING = (
    'time=2026-02-13T09:28:20Z level=INFO source=server.go:399 msg="starting runner" cmd="ollama runner --port 1"'
)


def test_llama_cpp_as_it_was_heard() -> None:
    found = spoken(RECORDED.read_text().splitlines())
    assert found == Spoken(
        (Buffers("CPU_Mapped", 0.14), Buffers("CPU", 0.0, 0.5, 2.14)), context=2048, slots=2, unified=False
    )
    assert (found.gpu_mib, found.backend) == (0.0, "")


@pytest.mark.parametrize(
    ("name", "on_gpu"),
    [
        *(("CUDA0", True), ("ROCm1", True), ("Vulkan0", True), ("MTL0", True), ("MTL0_Mapped", True), ("GPU", True)),
        *(("CPU", False), ("CPU_Mapped", False), ("CPU_REPACK", False), ("CUDA_Host", False), ("Host", False)),
    ],
)
def test_whose_memory_it_is(name: str, on_gpu: bool) -> None:
    assert Buffers(name).on_gpu is on_gpu


def test_what_a_gpu_holds() -> None:
    found = spoken(CUDA)
    assert found
    assert (found.buffers[1], found.gpu_mib, found.backend) == (CUDA0, 8409.33, "CUDA")


@pytest.mark.parametrize(
    ("lines", "mib"),
    [
        ([LOADS.format("a"), *CUDA, LOADS.format("a"), *CUDA], 8409.33),
        ([LOADS.format("a"), *CUDA, LOADS.format("b"), *CUDA], 16818.66),
        ([*CUDA, CUDA[-2]], 8409.33),
        ([*CUDA, *CUDA[2:]], 8409.33 + 500 + 304),
        (["\x1b[34m0.00.1\x1b[0m \x1b[32mI \x1b[0m" + line for line in CUDA], 8409.33),
        (["llama_kv_cache: CUDA0 KV buffer size = 9999999999999.00 MiB"], None),
        (["model buffer size = 1 GiB", "", "n_slots = x"], None),
    ],
    ids=["loaded twice", "a draft model beside", "reserved anew", "a second context", "in colour", "absurd", "no such"],
)
def test_what_counts(lines: list[str], mib: float | None) -> None:
    found = spoken(lines)
    assert (found.gpu_mib if found else None) == pytest.approx(mib)


@pytest.mark.parametrize(
    ("slots", "unified", "context"),
    [("n_slots = 4, n_ctx_slot = 1024", "false", 4096), ("n_slots = 4, n_ctx_slot = 8192", "true", 8192)],
)
def test_what_llama_cpp_says_at_its_usual_verbosity(slots: str, unified: str, context: int) -> None:
    found = spoken([f"0.00.018.982 I srv    load_model: initializing, {slots}, kv_unified = '{unified}'"])
    assert found == Spoken((), context, 4, unified == "true")


def test_ollama_of_which_the_last_runner_counts() -> None:
    words = (
        ("model weights", "CUDA0", "7.0 GiB"),
        ("model weights", "CPU", "285.7 MiB"),
        ("kv cache", "CUDA0", "912.2 MiB"),
        ("compute graph", "CUDA0", "512.0 KiB"),
    )
    lines = [OLLAMA.format(*each) for each in words]
    found = spoken([*CUDA, STARTING, *lines, *lines])
    assert found == Spoken((Buffers("CUDA0", 7168.0, 912.2, 0.5), Buffers("CPU", 285.7)))


@pytest.mark.parametrize(
    "weights",
    [
        "Model loading took 14.9889 GiB memory and 3.2 seconds",
        "Model loading took 14.9889 GB and 9.0 seconds",
        "Loading model weights took 14.9889 GB",
    ],
)
def test_vllm_of_any_year(weights: str) -> None:
    worker = "(VllmWorkerProcess pid=1005426) INFO 03-03 20:36:02 [model_runner.py:1117] "
    found = spoken(
        [
            worker + weights,
            worker + weights,
            "INFO 11-20 [gpu_worker.py:563] Available KV cache memory: 4.50 GiB",
            "INFO 11-20 [kv_cache_utils.py:395] GPU KV cache size: 178,880 tokens",
            "INFO 11-20 [gpu_model_runner.py:1] Graph capturing finished in 15 secs, took 0.50 GiB",
        ]
    )
    assert found
    assert (found.tokens, found.gpu_mib) == (178_880, pytest.approx(1024 * (14.9889 + 5.0), abs=0.02))


def test_a_log_without_end_takes_no_room() -> None:
    lines = (f"load_tensors: X{number} model buffer size = 1.00 MiB" for number in range(5000))
    found = spoken(lines)
    assert found
    assert len(found.buffers) == 1000
