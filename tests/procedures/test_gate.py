"""When a workload that nobody can ask counts as ready: Docker learns of an end a moment after it."""

from __future__ import annotations

import pytest

from backends.cluster.reading import ProbeResult, Workload
from backends.cluster.words import Cause
from backends.procedures.gate import FRESH, YOUNG, judge

NOW = 1_750_000_000.0


@pytest.mark.parametrize(
    ("gpu", "age", "health", "results", "ready"),
    [
        (False, 0.0, None, [], False),
        (False, YOUNG - 0.1, None, [], False),
        (False, YOUNG, None, [], True),
        (True, YOUNG, None, [], False),
        (True, FRESH - 0.1, None, [], False),
        (True, FRESH, None, [], True),
        (False, -60.0, None, [], True),  # its node's clock is ahead: its age says nothing
        (False, 0.0, "healthy", [], True),
        (False, 60.0, "starting", [], False),
        (True, 0.0, None, [ProbeResult(Cause.OK, "answered")], True),
        (True, 60.0, None, [ProbeResult(Cause.LOADING, "503 Loading model")], False),
    ],
)
def test_who_cannot_be_asked_is_ready_once_it_has_run_for_a_while(
    gpu: bool, age: float, health: str | None, results: list[ProbeResult], ready: bool
) -> None:
    workload = Workload("a", "docker", "running", gpu=gpu, started_at=NOW - age, health=health)
    assert judge(workload, results, NOW).ready is ready
