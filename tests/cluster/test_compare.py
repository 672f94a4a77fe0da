"""What changed since it last worked, as tables; the facts of a machine from what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.compare import Difference, differences
from backends.cluster.files import parse
from backends.cluster.fold import empty, fold_all
from backends.cluster.reading import (
    EndpointReading,
    Facts,
    FactsReading,
    Gpu,
    GpuReading,
    Instant,
    ModelInfo,
    ProbeResult,
    ReachReading,
    Reading,
    Trouble,
    Workload,
    WorkloadReading,
)
from backends.cluster.snapshot import ClusterSnapshot, Well
from backends.cluster.words import Cause
from backends.facts import parsed
from tui.details import details

FACTS = Facts(1_000_000.0, "6.8.0", "570.86", "28.5.1")
BOX = Workload("box", "docker", "running", id="b" * 64, image="llama:1", digest="sha256:aaaa", arguments=("-c", "4096"),
               mounts=("models:/models",), gpu=True)  # fmt: skip
WELL = Well(None, BOX, "b1", ("m",), (Gpu(0, "RTX 3090", memory_total_mib=24576.0),), FACTS, ("", "", ""))
INVENTORY = parse(
    """
version = 1
name = "t"
[[nodes]]
name = "n"
address = "10.0.0.1"
gpus = "nvidia"
[[tiers]]
name = "A"
[[endpoints]]
name = "a"
tier = "A"
node = "n"
engine = "llama.cpp"
url = "http://10.0.0.1:1"
container = "box"
""",
    Path("t.toml"),
).inventory


def box(**changed: Any) -> Well:
    return replace(WELL, workload=replace(BOX, **changed))


def machine(**changed: Any) -> Well:
    return replace(WELL, facts=replace(FACTS, **changed))


@pytest.mark.parametrize(
    ("now", "what", "was", "is_now"),
    [
        (box(digest="sha256:bbbb"), "image digest", "aaaa", "bbbb"),
        (box(image="llama:2"), "image", "llama:1", "llama:2"),
        (box(arguments=("-c", "65536")), "arguments", "-c 4096", "-c 65536"),
        (box(mounts=()), "mounts", "models:/models", ""),
        (box(gpu=False), "GPU asked for", "yes", "no"),
        (box(state="exited", exit_code=137, oom_killed=True), "container", "running",
         "exited with code 137, out of memory"),
        (replace(WELL, version="b2"), "engine version", "b1", "b2"),
        (replace(WELL, models=()), "models", "m", ""),
        (machine(kernel="6.11.0"), "kernel", "6.8.0", "6.11.0"),
        (machine(driver="575.1"), "GPU driver", "570.86", "575.1"),
        (machine(docker="29.0"), "Docker", "28.5.1", "29.0"),
        (replace(WELL, gpus=()), "GPUs of the node", "0 RTX 3090 24576 MiB", ""),
        (replace(WELL, troubles=("gone", "", "")), "the node", "read", "gone"),
    ],
)  # fmt: skip
def test_each_fact(now: Well, what: str, was: str, is_now: str) -> None:
    assert differences(WELL, now) == [Difference(what, was, is_now)]


def test_what_is_as_it_was_and_what_is_not_known_is_no_difference() -> None:
    assert differences(WELL, WELL) == []
    assert differences(WELL, replace(WELL, facts=None)) == []
    assert differences(WELL, machine(docker=None)) == []


def test_a_boot_is_told_by_its_time() -> None:
    (found,) = differences(WELL, machine(booted_at=2_000_000.0))
    assert (found.what, found.was < found.now) == ("booted", True)


def at(seconds: float) -> Instant:
    return Instant(2_000_000 + seconds, seconds)


def probe(seconds: float, cause: Cause = Cause.OK) -> EndpointReading:
    models = (ModelInfo("m"),) if cause is Cause.OK else None
    return EndpointReading("a", at(seconds), ProbeResult(cause, "said", models=models), 5.0)


def look(seconds: float, **changed: Any) -> WorkloadReading:
    return WorkloadReading("n", at(seconds), (replace(BOX, **changed),))


def after(*readings: Reading) -> ClusterSnapshot:
    return fold_all(INVENTORY, empty(INVENTORY), readings)


def shown(snapshot: ClusterSnapshot, key: str = "endpoint:a") -> str:
    return "\n".join(line.text for line in details(INVENTORY, snapshot, key, 120))


def test_the_details_of_one_that_fell_name_what_is_not_as_it_was() -> None:
    snapshot = after(
        FactsReading("n", at(0), FACTS), look(0), probe(0), probe(5), look(8, digest="sha256:bbbb"),
        FactsReading("n", at(9), replace(FACTS, driver="575.1")), probe(10, Cause.REFUSED),
    )  # fmt: skip
    told = shown(snapshot)
    assert "changed since it last worked" in told
    assert "aaaa -> bbbb" in told
    assert "570.86 -> 575.1" in told
    assert "4096" not in told
    assert "575.1" in shown(snapshot, "node:n")


def test_one_that_works_and_one_that_never_did() -> None:
    assert "last worked" not in shown(after(look(0), probe(0)))
    assert "not seen working since this console opened" in shown(after(look(0), probe(0, Cause.REFUSED)))
    assert "nothing that is known is not as it was then" in shown(after(look(0), probe(0), probe(5, Cause.REFUSED)))


def test_one_that_fails_but_is_not_down_yet_keeps_how_it_was() -> None:
    readings: list[Reading] = [
        look(0),
        probe(0),
        look(5, digest="sha256:bbbb"),
        *(probe(t, Cause.TIMEOUT) for t in (6, 11, 16)),
    ]
    assert "aaaa -> bbbb" in shown(after(*readings))


def test_a_finding_is_no_good_time() -> None:
    gone = GpuReading("n", at(1), (Gpu(0, "RTX 3090", memory_used_mib=10.0, processes=()),))
    snapshot = after(look(0), probe(0), gone)
    assert snapshot.findings
    for reading in (look(2, digest="sha256:bbbb"), probe(5), probe(60)):
        snapshot = fold_all(INVENTORY, snapshot, [reading])
    assert "aaaa -> bbbb" in shown(snapshot)


def test_only_what_lasts_counts_as_working() -> None:
    fell: list[Reading] = [
        look(0),
        probe(0),
        probe(5, Cause.REFUSED),
        look(8, digest="sha256:bbbb"),
        probe(10),
        probe(15),
        probe(20),
    ]
    assert "aaaa -> bbbb" in shown(after(*fell, probe(25, Cause.REFUSED)))
    assert "aaaa" not in shown(after(*fell, probe(50), probe(55, Cause.REFUSED)))


def test_a_boot_time_that_wobbles_stays() -> None:
    wobbling = [FactsReading("n", at(t), replace(FACTS, booted_at=1_000_000.0 + t % 3)) for t in range(9)]
    facts = after(*wobbling).nodes["n"].facts
    assert facts is not None
    assert facts.booted_at == 1_000_000.0


def test_a_node_that_is_lost_is_named() -> None:
    lost = ReachReading("n", at(8), Trouble("n refuses SSH."))
    assert "read -> n refuses SSH." in shown(after(look(0), probe(0), lost, probe(10, Cause.REFUSED)))


@pytest.mark.parametrize(
    ("said", "facts"),
    [
        ("/proc/stat:cpu  1 2 3\n/proc/stat:btime 1795000000\n/proc/sys/kernel/osrelease:6.8.0-85-generic\n"
         "/proc/driver/nvidia/version:NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15\n"
         "/proc/driver/nvidia/version:GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
         Facts(1795000000.0, "6.8.0-85-generic", "535.183.01")),
        ("/proc/driver/nvidia/version:NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release\n",
         Facts(driver="570.86.15")),
        ("/sys/module/amdgpu/version:6.10.5\n", Facts(driver="6.10.5")),
        ("kern.boottime: { sec = 1795000000, usec = 123 } Sat Nov 21 16:00:00 2026\nkern.osrelease: 25.1.0\n",
         Facts(1795000000.0, "25.1.0")),
        ("btime 1795000000\r\nosrelease:10.0.26100\r\nvideo:32.0.15.7216\r\n",
         Facts(1795000000.0, "10.0.26100", "32.0.15.7216")),
        ("", Facts()),
        ("btime 12\n\x00\x1b[2J<html>", Facts()),
    ],
    ids=["linux", "open module", "amd", "macos", "windows", "nothing", "garbage"],
)  # fmt: skip
def test_what_a_machine_says(said: str, facts: Facts) -> None:
    assert parsed(said) == facts
