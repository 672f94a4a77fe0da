"""What is learned of memory: kept, found again, forgotten, and never in the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backends.figures import KEEP, MOST, Figures, Observation, Overhead
from backends.memory.settings import Settings
from backends.memory.spoken import Buffers, Spoken

SAID = Spoken((Buffers("CUDA0", 1000.0, 200.0, 30.5),), context=4096)
SEEN = Observation("mark", "a", "a" * 64, "a@1", "volume:v/a.gguf", Settings(context=4096), SAID)
KEPT = Overhead("mark", "RTX 3090", "CUDA", "b1")


def test_another_process_finds_it(tmp_path: Path) -> None:
    mine, other = Figures(tmp_path), Figures(tmp_path)
    other.refresh()
    mine.observe(SEEN)
    mine.learn(KEPT, "a@1", 411.26)
    other.refresh()
    assert other.observation("mark", "a" * 64) == SEEN
    found = other.overhead("mark")
    assert found
    assert (found.mib, found.starts) == (411.3, (("a@1", 411.3),))
    assert (tmp_path / "memory.json").stat().st_mode & 0o777 == 0o600


def test_the_latest_start_counts_of_an_observation() -> None:
    figures = Figures()
    figures.observe(SEEN)
    figures.observe(replace(SEEN, start="a@2", said=None))
    assert [each.start for each in figures.observations] == ["a@2"]
    assert figures.observation("desk", SEEN.id) is None


def test_the_largest_start_counts_of_an_overhead_and_few_are_kept() -> None:
    figures = Figures()
    for number in range(KEEP + 2):
        figures.learn(KEPT, f"a@{number}", 500.0 - number)
    figures.learn(KEPT, f"a@{KEEP + 1}", 100.0)
    (found,) = figures.overheads
    assert (len(found.starts), found.mib) == (KEEP, 498.0)


@pytest.mark.parametrize(
    ("gpu", "backend", "build", "mib"),
    [
        ("RTX 3090", "CUDA", "b1", 400),
        ("RTX 3090", "CUDA", "b2", 420),
        ("RTX 3090", "CUDA", "b9", 420),
        ("RTX 3090", "Vulkan", "b1", 90),
        ("RTX 4090", "CUDA", "b2", 600),
        ("", "", "", 600),
        ("RTX 1", "", "", 600),
    ],
)
def test_which_overhead_counts(gpu: str, backend: str, build: str, mib: float) -> None:
    figures = Figures()
    for each, size in (
        (KEPT, 400),
        (replace(KEPT, build="b2"), 420),
        (replace(KEPT, backend="Vulkan"), 90),
        (replace(KEPT, gpu="RTX 4090"), 600),
        (replace(KEPT, node="desk"), 999),
    ):
        figures.learn(each, "a@1", size)
    found = figures.overhead("mark", gpu, backend, build)
    assert found
    assert found.mib == mib
    assert figures.overhead("nas") is None


def test_it_is_forgotten_node_by_node(tmp_path: Path) -> None:
    figures = Figures(tmp_path)
    figures.observe(SEEN)
    figures.learn(KEPT, "a@1", 400)
    figures.learn(replace(KEPT, node="desk"), "b@1", 300)
    assert figures.forget("nas") == 0
    assert figures.forget("mark") == 2
    again = Figures(tmp_path)
    again.refresh()
    assert [each.node for each in again.overheads] == ["desk"]
    assert again.forget() == 1
    assert not again.overheads


def test_a_damaged_file_is_learned_anew(tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text('{"observations": [{"node": 5}]}')
    figures = Figures(tmp_path)
    figures.refresh()
    assert figures.observations == ()
    figures.observe(SEEN)
    again = Figures(tmp_path)
    again.refresh()
    assert again.observations == (SEEN,)


def test_containers_come_and_go_without_end() -> None:
    figures = Figures()
    for number in range(MOST + 5):
        figures.observe(replace(SEEN, id=f"{number}"))
    assert len(figures.observations) == MOST
    assert figures.observations[-1].id == f"{MOST + 4}"
