"""Forward progress and throughput as tables: what moves, what stands still, and counters that make no sense."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from backends.cluster.files import parse
from backends.cluster.fold import empty, fold, fold_all
from backends.cluster.reading import EndpointReading, Instant, ModelCount, ProbeResult, Progress
from backends.cluster.snapshot import EndpointState, ModelRate
from backends.cluster.words import Cause, Verdict
from backends.cluster.work import KEEP, two_digits

INTERVAL = 5.0
TEXT = """
version = 1
name = "t"
[[tiers]]
name = "A"
[[endpoints]]
name = "a"
tier = "A"
engine = "vllm"
url = "http://10.0.0.1:1"
"""


def reading(at: float, progress: Progress | None, cause: Cause = Cause.OK) -> EndpointReading:
    return EndpointReading(
        "a", Instant(1e6 + at, at), ProbeResult(cause, "answered", 0.01, progress=progress), INTERVAL
    )


def after(*said: Progress | Cause | None, every: float = INTERVAL, more: str = "") -> EndpointState:
    inventory = parse(TEXT + more, Path("t.toml")).inventory
    readings = [
        reading(i * every, None, each) if isinstance(each, Cause) else reading(i * every, each)
        for i, each in enumerate(said)
    ]
    return fold_all(inventory, empty(inventory), readings).endpoints["a"]


IDLE = Progress(tokens=100, running=0, waiting=0)
STUCK = Progress(tokens=100, running=1, waiting=3)
WAITING = Progress(tokens=100, running=0, waiting=1)
MOVED = Progress(tokens=101, running=1, waiting=3)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ((STUCK,), Cause.OK),
        ((STUCK, STUCK), Cause.OK),
        ((STUCK, STUCK, STUCK), Cause.STALLED),
        ((IDLE, STUCK, STUCK, STUCK), Cause.STALLED),
        ((IDLE, WAITING, WAITING, WAITING), Cause.STALLED),
        ((STUCK, MOVED, MOVED), Cause.OK),
        ((STUCK, STUCK, STUCK, None), Cause.STALLED),
        ((STUCK, None, None, STUCK), Cause.STALLED),
        ((IDLE, IDLE, IDLE, IDLE), Cause.OK),
        ((STUCK, STUCK, IDLE, STUCK, STUCK), Cause.OK),
        ((STUCK, STUCK, Progress(tokens=5, running=1), Progress(tokens=5, running=1)), Cause.OK),
        ((Progress(tokens=1, running=1, kv_used=0.1), Progress(tokens=1, running=1, kv_used=0.2)) * 3, Cause.OK),
        ((Progress(steps=1, running=1), Progress(steps=2, running=1)) * 3, Cause.OK),
        ((Progress(steps=1, running=1),) * 3, Cause.STALLED),
        ((STUCK, STUCK, Cause.TIMEOUT, STUCK, STUCK), Cause.OK),
        ((STUCK, STUCK, STUCK, Cause.REFUSED), Cause.REFUSED),
        ((Progress(tokens=1, running=1, waiting=9),), Cause.BUSY),
        ((Progress(tokens=1, running=1, waiting=8),), Cause.OK),
    ],
)
def test_what_stands_still(said: tuple[Progress | Cause | None, ...], cause: Cause) -> None:
    assert after(*said).cause is cause


def test_stalled_is_down_with_its_evidence_and_ends_with_movement() -> None:
    stalled = after(STUCK, STUCK, STUCK)
    assert stalled.verdict is Verdict.DOWN
    assert stalled.evidence == "answers, but its work stands still: 1 running, 3 waiting, no token"
    moving = [Progress(tokens=101 + i, running=1) for i in range(3)]
    assert after(STUCK, STUCK, STUCK, moving[0]).verdict is Verdict.DOWN, "one success is not yet enough"
    assert after(STUCK, STUCK, STUCK, *moving).cause is Cause.OK


def test_patience_and_queue_are_the_inventorys() -> None:
    assert after(STUCK, STUCK, STUCK, more='stalled_after = "60s"').cause is Cause.OK
    assert after(*[STUCK] * 13, more='stalled_after = "60s"').cause is Cause.STALLED
    assert after(STUCK, more="queue_limit = 2").evidence == "3 requests wait (limit 2)"
    assert after(STUCK, more="[defaults]\nqueue_limit = 0\n").cause is Cause.BUSY


@pytest.mark.parametrize(
    ("old", "new", "tokens_per_s"),
    [
        (Progress(tokens=100), Progress(tokens=300), 40.0),
        (Progress(tokens=100), Progress(tokens=100), 0.0),
        (Progress(tokens=100), Progress(tokens=7), None),
        (Progress(tokens=None), Progress(tokens=7), None),
        (Progress(tokens=0), Progress(tokens=1234), 250.0),
        (Progress(tokens=0, steps=0, running=1), Progress(tokens=0, steps=200, running=1), 40.0),
        (Progress(tokens=0, steps=0, running=2), Progress(tokens=0, steps=200, running=2), 80.0),
    ],
)
def test_tokens_per_second(old: Progress, new: Progress, tokens_per_s: float | None) -> None:
    work = after(old, new).work
    assert work is not None
    assert work.tokens_per_s == tokens_per_s


def test_the_other_figures() -> None:
    first = Progress(running=2, waiting=1, kv_used=0.431, first_s=10.0, first_n=20)
    work = after(first).work
    assert work is not None
    assert (work.running, work.waiting, work.kv_pct, work.first_ms) == (2, 1, 45, 500)
    later = after(first, Progress(running=2, waiting=1, first_s=10.4, first_n=21)).work
    assert later is not None
    assert later.first_ms == 400
    quiet = after(first, Progress(running=2, waiting=1, first_s=10.0, first_n=20)).work
    assert quiet is not None
    assert quiet.first_ms == 500


def test_a_gateways_models_per_minute() -> None:
    before = Progress(models=(ModelCount("a", 10, 1000), ModelCount("gone", 5, 5)))
    now = Progress(models=(ModelCount("a", 11, 1600), ModelCount("new", 1, 10)))
    work = after(before, now).work
    assert work is not None
    assert work.models == (ModelRate("a", 12, 7200), ModelRate("new", 12, 120))


def test_samples_are_bounded_and_equal_work_is_an_equal_snapshot() -> None:
    inventory = parse(TEXT, Path("t.toml")).inventory
    snapshot = fold_all(inventory, empty(inventory), [reading(i * 5, IDLE) for i in range(200)])
    assert len(snapshot.endpoints["a"].samples) == KEEP
    assert fold(inventory, snapshot, reading(1000, IDLE)) == snapshot


def test_noise_never_breaks_the_fold() -> None:
    chance = Random(1)
    inventory = parse(TEXT, Path("t.toml")).inventory
    snapshot = empty(inventory)

    def any_of(*values: float | None) -> float | None:
        return chance.choice(values)

    for i in range(2000):
        n = [any_of(None, 0, 1, 5, 2.0**53 - 1, 1e-9) for _ in range(8)]
        whole = [None if v is None else int(v) for v in n[:2]]
        progress = Progress(n[2], whole[0], whole[1], n[3], n[4], n[5], n[6], n[7], n[2])
        snapshot = fold(inventory, snapshot, reading(i * chance.choice((0, 1, 5)), progress))
    assert snapshot.endpoints["a"].work is not None


@pytest.mark.parametrize(("value", "shown"), [(None, None), (0, 0), (38.44, 38), (412, 410), (0.0123, 0.012)])
def test_two_digits(value: float | None, shown: float | None) -> None:
    assert two_digits(value) == shown
