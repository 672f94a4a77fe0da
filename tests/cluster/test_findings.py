"""Who answers from the CPU although there is a GPU for it, as a table of what the GPUs tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.changes import changes
from backends.cluster.files import parse
from backends.cluster.findings import SETTLED
from backends.cluster.fold import empty, fold_all
from backends.cluster.inventory import Inventory
from backends.cluster.reading import (
    EndpointReading,
    Gpu,
    GpuProcess,
    GpuReading,
    Instant,
    ModelInfo,
    ProbeResult,
    Reading,
    Trouble,
    Workload,
    WorkloadReading,
)
from backends.cluster.report import status_json, status_text
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause, Flaw

BOX, OTHER = "b" * 64, "c" * 64
ON, OFF = (GpuProcess(7, 4400.0, BOX),), ()
NEIGHBOUR = (GpuProcess(9, 900.0, OTHER),)
HOST = (GpuProcess(9, 900.0, ""),)
TIMES = range(0, 100, 5)


def inventory(engine: str = "llama.cpp", os: str = "linux", gpus: str = "nvidia") -> Inventory:
    text = f"""
version = 1
name = "t"
[[nodes]]
name = "n"
address = "10.0.0.1"
os = "{os}"
gpus = "{gpus}"
[[tiers]]
name = "A"
[[endpoints]]
name = "a"
tier = "A"
node = "n"
engine = "{engine}"
url = "http://10.0.0.1:1"
{'container = "box"' if engine != "ollama" else ""}
"""
    return parse(text, Path("t.toml")).inventory


def at(seconds: float) -> Instant:
    return Instant(1_000_000 + seconds, 1000 + seconds)


def box(state: str = "running", seconds: float = 0, started: float = -900, *, gpu: bool = True) -> WorkloadReading:
    began = at(started).wall if state == "running" else None
    return WorkloadReading("n", at(seconds), (Workload("box", "docker", state, id=BOX, gpu=gpu, started_at=began),))


def gpu(
    seconds: float, processes: tuple[GpuProcess, ...] | None, used: float | None = 5000.0, *more: Gpu
) -> GpuReading:
    return GpuReading("n", at(seconds), (Gpu(0, "RTX", memory_used_mib=used, processes=processes), *more))


def probe(seconds: float, cause: Cause = Cause.OK, size: float | None = 4400.0, **model: object) -> EndpointReading:
    models = (ModelInfo("m", size_mib=size, **{"loaded": True, **model}),)  # type: ignore[arg-type]
    return EndpointReading("a", at(seconds), ProbeResult(cause, "answered", 0.01, models), 5.0)


def found(readings: list[Reading], **options: str) -> ClusterSnapshot:
    inv = inventory(**options)
    return fold_all(inv, empty(inv), readings)


def flaws(snapshot: ClusterSnapshot) -> list[tuple[Flaw, str]]:
    return [(finding.flaw, finding.evidence) for finding in snapshot.findings]


@pytest.mark.parametrize(
    ("vram", "loaded", "options", "flaw"),
    [
        (0.0, True, {}, Flaw.ON_CPU),
        (3000.0, True, {}, None),
        (None, True, {}, None),
        (0.0, False, {}, None),
        (0.0, True, {"gpus": "none"}, None),
        (0.0, True, {"gpus": "apple"}, Flaw.ON_CPU),
    ],
)
def test_ollama(vram: float | None, loaded: bool, options: dict[str, str], flaw: Flaw | None) -> None:
    snapshot = found([probe(0, vram_mib=vram, loaded=loaded)], engine="ollama", **options)
    assert [finding.flaw for finding in snapshot.findings] == ([flaw] if flaw else [])
    if flaw:
        assert "m: loaded with nothing of it on the GPU of n" in snapshot.findings[0].evidence
        assert "Restart Ollama on n (systemctl restart ollama)" in snapshot.findings[0].cure


def test_an_ollama_that_sleeps_is_no_finding() -> None:
    assert not found([probe(0, Cause.SLEEPING, vram_mib=0.0)], engine="ollama").findings


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        (ON, None),
        (OFF, "box: none of its processes is on a GPU of n"),
        (NEIGHBOUR, "box: none of its processes is on a GPU of n"),
        (HOST, "box: none of its processes is on a GPU of n"),
        ((*NEIGHBOUR, *ON), None),
        (None, None),
        ((GpuProcess(9, 900.0, None),), None),
        ((GpuProcess(7, None, BOX),), None),
        ((GpuProcess(7, 310.0, BOX),), "box: holds 310 MiB on the GPU, its model is 4.3 GiB"),
    ],
    ids=["on", "none", "a neighbour", "the host's", "both", "not told", "no cgroups", "no figures", "a context only"],
)
def test_a_container_is_judged_at_the_first_look(processes: tuple[GpuProcess, ...] | None, words: str | None) -> None:
    snapshot = found([box(), probe(0), gpu(0, processes)])
    assert flaws(snapshot) == ([(Flaw.ON_CPU, words)] if words else [])


@pytest.mark.parametrize(
    "readings",
    [
        [box(gpu=False), probe(0), gpu(0, OFF)],
        [box("exited"), probe(0), gpu(0, OFF)],
        [box(), probe(0, Cause.LOADING), gpu(0, OFF)],
        [box(), probe(0, Cause.SLEEPING), gpu(0, OFF)],
        [box(), probe(0), gpu(0, OFF), GpuReading("n", at(2), trouble=Trouble("A GPU fell off the bus."))],
        [probe(0), gpu(0, OFF)],
        [box(), probe(0)],
    ],
    ids=["without a GPU", "stopped", "loads", "sleeps", "the driver is silent", "not looked at", "GPUs not read"],
)
def test_what_says_nothing(readings: list[Reading]) -> None:
    assert not found(readings).findings


def story(*, started: float, processes: dict[range, tuple[GpuProcess, ...] | None], used: dict[range, float],
          well: float) -> list[Reading]:  # fmt: skip
    """A container that starts at `started` and is well from `well` on, looked at every five seconds."""
    readings: list[Reading] = []
    for t in TIMES:
        readings.append(box("running" if t >= started else "exited", t, started))
        readings.append(gpu(t, next((p for span, p in processes.items() if t in span), OFF),
                            next((u for span, u in used.items() if t in span), 1000.0)))  # fmt: skip
        readings.append(probe(t, Cause.OK if t >= well else Cause.REFUSED))
    return readings


def test_one_that_started_before_our_eyes_is_given_time() -> None:
    readings = story(started=10, well=30, processes={}, used={})
    inv = inventory()
    snapshot, when = empty(inv), None
    for reading in readings:
        before, snapshot = snapshot, fold_all(inv, snapshot, [reading])
        if snapshot.findings and when is None:
            when = reading.at.mono - 1000
            assert [change.text.split(":")[0] for change in changes(before, snapshot)] == ["a -> ON_CPU"]
    assert when == 30 + SETTLED
    assert flaws(snapshot) == [(Flaw.ON_CPU, "box: none of its processes is on a GPU of n")]


def test_one_whose_processes_come_late_in_the_list_is_none() -> None:
    assert not found(story(started=10, well=30, processes={range(40, 100): ON}, used={})).findings


def test_one_that_had_its_gpu_has_lost_it() -> None:
    snapshot = found(story(started=10, well=30, processes={range(20, 60): ON}, used={}))
    assert [f.flaw for f in snapshot.findings] == [Flaw.GPU_LOST]
    assert "docker restart box on n" in snapshot.findings[0].cure


@pytest.mark.parametrize(
    ("used", "there"),
    [({}, True), ({range(15, 100): 5400.0}, False), ({range(15, 40): 5400.0, range(40, 100): 300.0}, False),
     ({range(15, 100): 200.0}, True)],
    ids=["flat", "risen", "risen, then a neighbour left", "a neighbour left"],
)  # fmt: skip
def test_where_processes_are_not_told_the_memory_must_have_risen(used: dict[range, float], there: bool) -> None:
    untold: dict[range, tuple[GpuProcess, ...] | None] = {range(100): None}
    snapshot = found(story(started=10, well=30, processes=untold, used=used), os="windows")
    words = [(Flaw.ON_CPU, "box: GPU memory of n did not rise while it started and loaded")]
    assert flaws(snapshot) == (words if there else [])


def test_one_that_ran_before_we_came_is_not_judged_by_memory() -> None:
    readings: list[Reading] = [r for t in TIMES for r in (box("running", t), gpu(t, None), probe(t))]
    assert not found(readings, os="windows").findings


def test_it_is_told_in_status() -> None:
    snapshot = found([box(), probe(0), gpu(0, OFF)])
    (told,) = status_json(inventory(), snapshot)["findings"]
    assert (told["name"], told["endpoint"]) == ("ON_CPU", "a")
    assert "--gpus all" in told["cure"]
    assert any(line.startswith("a  ON_CPU  box: none") for line in status_text(inventory(), snapshot))
