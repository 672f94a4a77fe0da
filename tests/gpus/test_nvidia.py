from __future__ import annotations

import pytest

from backends.cluster.reading import Gpu, GpuProcess
from backends.errors import CommandError
from backends.gpus import nvidia

GOOD = "0, GPU-8f0c1a2b-1111-2222-3333-444455556666, NVIDIA GeForce RTX 3090, 24576, 20118, 71, 63, 287.31"


def test_a_line() -> None:
    assert nvidia.parse_line(GOOD) == Gpu(
        index=0,
        name="NVIDIA GeForce RTX 3090",
        uuid="GPU-8f0c1a2b-1111-2222-3333-444455556666",
        memory_total_mib=24576,
        memory_used_mib=20118,
        utilization_pct=71,
        temperature_c=63,
        power_w=287.31,
    )


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        ("0, GPU-aaaa, A, 8192, 0, 0, 30, 8.2", (8192, 0, 0, 30, 8.2)),
        ("0,GPU-aaaa,A,8192,0,0,30,8.2\r", (8192, 0, 0, 30, 8.2)),
        ("0, GPU-aaaa, A, 8192, 100, [N/A], [N/A], [N/A]", (8192, 100, None, None, None)),
        ("0, GPU-aaaa, A, [Not Supported], [Not Supported], [Not Supported], 40, ERR!", (None, None, None, 40, None)),
        ("0, GPU-aaaa, A, [Unknown Error], [GPU requires reset], 1, 2, 3", (None, None, 1, 2, 3)),
        ("0, GPU-aaaa, A, 0, 0, 0, 0, 0", (None, 0, 0, 0, 0)),
        ("0, GPU-aaaa, A, 8192 MiB, 10 MiB, 7 %, 40, 12.50 W", (8192, 10, 7, 40, 12.5)),
        ("0, GPU-aaaa, A, -1, -5, 101, 900, 99999999", (None, None, None, None, None)),
        ("0, GPU-aaaa, A, nan, inf, 1e3, 0x10, ", (None, None, None, None, None)),
        ("0, GPU-aaaa, A, 99999999999999999999999999999999999999999999, 1, 1, 1, 1", (None, 1, 1, 1, 1)),
    ],
)
def test_figures_that_are_none_are_not_known(line: str, figures: tuple[float | None, ...]) -> None:
    gpu = nvidia.parse_line(line)
    assert gpu is not None
    found = (gpu.memory_total_mib, gpu.memory_used_mib, gpu.utilization_pct, gpu.temperature_c, gpu.power_w)
    assert found == figures


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("1, GPU-aaaa, Quadro RTX 6000, rev 2, special, 1, 1, 1, 1, 1", "Quadro RTX 6000, rev 2, special"),
        ("1, GPU-aaaa, \x1b[31mred\x1b[0m [bold]name[/], 1, 1, 1, 1, 1", "red [bold]name[/]"),
        ("1, [N/A], [Unknown Error], 1, 1, 1, 1, 1", "[Unknown Error]"),
    ],
)
def test_names(line: str, name: str) -> None:
    gpu = nvidia.parse_line(line)
    assert gpu is not None
    assert gpu.name == name


@pytest.mark.parametrize(
    "line",
    [
        "",
        "0, GPU-aaaa, A, 8192",
        "index, uuid, name, memory.total [MiB], memory.used [MiB], utilization.gpu [%], power.draw [W], x",
        "x, GPU-aaaa, A, 1, 1, 1, 1, 1",
        "-1, GPU-aaaa, A, 1, 1, 1, 1, 1",
        "999999999999, GPU-aaaa, A, 1, 1, 1, 1, 1",
        "²,a,b,c,d,e,f,g",
        "Zażółć gęślą jaźń",
    ],
)
def test_lines_that_tell_of_no_gpu(line: str) -> None:
    assert nvidia.parse_line(line) is None


def test_several_gpus_and_what_stands_between_them() -> None:
    text = f"Warnung: irgendetwas\n{GOOD}\n\n{GOOD.replace('0, GPU-8', '1, GPU-9')}\n0, GPU-8f, cut o"
    assert [gpu.index for gpu in nvidia.parse(text)] == [0, 1]


FAULTS = [
    (
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.86",
        "updated under the running one",
        "Reboot",
    ),
    ("Failed to initialize NVML: Unknown Error", "does not answer", "recreate the container"),
    ("No devices were found", "sees no GPU", "dmesg"),
    (
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
        "NVIDIA driver is installed and running.",
        "not loaded",
        "modprobe nvidia",
    ),
    (
        "Unable to determine the device handle for GPU 0000:0A:00.0: GPU is lost.  Reboot the system to recover it",
        "fell off the bus",
        "Reboot the host",
    ),
    ("Unable to determine the device handle for GPU0000:01:00.0: Unknown Error", "has lost a GPU", "Xid"),
    ("Failed to initialize NVML: Insufficient Permissions", "does not answer", ""),
]


@pytest.mark.parametrize(("text", "says", "advises"), FAULTS)
def test_faults(text: str, says: str, advises: str) -> None:
    for told in (nvidia.failure(255, text, ""), nvidia.failure(9, "", text)):
        assert says in told.message
        assert advises in told.advice
    with pytest.raises(CommandError, match=says):
        nvidia.parse(text)


def test_a_fault_beside_good_figures_is_a_fault() -> None:
    with pytest.raises(CommandError, match="has lost a GPU"):
        nvidia.parse(f"{GOOD}\nUnable to determine the device handle for GPU0000:01:00.0: Unknown Error\n")


@pytest.mark.parametrize("text", ["", "\n\n", "Gesundheit", "<html>", "\x00" * 100, "a," * 50_000])
def test_garbage(text: str) -> None:
    with pytest.raises(CommandError, match="no list of GPUs") as caught:
        nvidia.parse(text)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("status", "stderr"),
    [
        (127, "bash: line 1: nvidia-smi: command not found"),
        (127, ""),
        (1, "'nvidia-smi' is not recognized as an internal or external command,\r\noperable program or batch file."),
        (127, "sh: 1: nvidia-smi: not found"),
        (127, "nvidia-smi is not installed here, or not on the PATH."),
    ],
)
def test_missing_program(status: int, stderr: str) -> None:
    told = nvidia.failure(status, "", stderr)
    assert "not installed" in told.message
    assert told.status == status


def test_other_failures_keep_their_words() -> None:
    assert 'status 2: Field "x" is not' in nvidia.failure(2, 'Field "x" is not a valid field to query.\n', "").message
    assert "status 1: no words" in nvidia.failure(1, "", "").message


def test_processes() -> None:
    text = "1234, 20000, GPU-a\n1235, [N/A], GPU-a\n77, 300, GPU-b\nNo running processes found\nx, 1, GPU-a\n1, 2\n"
    assert nvidia.parse_processes(text) == {"GPU-a": ((1234, 20000.0), (1235, None)), "GPU-b": ((77, 300.0),)}


CONTAINER = "ab" * 32


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"/proc/7/cgroup:0::/system.slice/docker-{CONTAINER}.scope", {7: CONTAINER}),
        (f"/proc/7/cgroup:12:memory:/docker/{CONTAINER}", {7: CONTAINER}),
        (f"/proc/7/cgroup:0::/kubepods/besteffort/pod1/{CONTAINER}", {7: CONTAINER}),
        ("/proc/7/cgroup:0::/user.slice/user-1000.slice/session-3.scope", {7: ""}),
        (f"/proc/7/cgroup:0::/docker/{CONTAINER}ab", {7: ""}),
        (f"{CONTAINER}", {}),
        ("", {}),
    ],
)
def test_cgroups(line: str, found: dict[int, str]) -> None:
    assert nvidia.parse_cgroups(line) == found


def test_processes_find_their_gpu_and_container() -> None:
    gpus = (Gpu(0, "A", uuid="GPU-a"), Gpu(1, "B", uuid=None))
    one, two = nvidia.with_processes(gpus, {"GPU-a": [(7, 1.0), (8, None)], "GPU-x": [(9, 2.0)]}, {7: CONTAINER})
    assert one.processes == (GpuProcess(7, 1.0, CONTAINER), GpuProcess(8, None))
    assert two.processes == ()


def indices(rounds: list[tuple[Gpu, ...]]) -> list[list[int]]:
    return [[gpu.index for gpu in gpus] for gpus in rounds]


@pytest.mark.parametrize(
    ("expected", "fed", "rounds"),
    [
        (1, [0, 0, 0], [[0], [0], [0]]),
        (2, [0, 1, 0, 1], [[0, 1], [0, 1]]),
        (3, [0, 1, 0, 1, 0, 1], [[0, 1], [0, 1], [0, 1]]),
        (1, [0, 1, 0, 1], [[0], [0, 1], [0, 1]]),
        (2, [1, 0, 0, 1], [[1, 0], [0, 1]]),
        (2, [0], []),
    ],
)
def test_rounds(expected: int, fed: list[int], rounds: list[list[int]]) -> None:
    putting = nvidia.Rounds(expected)
    assert indices([told for index in fed for told in putting.feed(Gpu(index, "A"))]) == rounds


def test_rounds_are_bounded() -> None:
    putting = nvidia.Rounds(10_000)
    for index in range(1000):
        assert putting.feed(Gpu(index, "A")) == []
    (told,) = putting.feed(Gpu(0, "A"))
    assert len(told) == nvidia.MOST_GPUS
