"""Two state directories are two machines: what keeps them apart is the lease on the node itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.errors import ProcedureError
from backends.procedures.commands import Procedures
from backends.reach.lease_files import FILE
from tests.procedures.test_process import RUNNER, Bench, bench, short, until

__all__ = ["bench", "short"]


@pytest.fixture
def node(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's home, which both see."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("TOY_HOME", str(home))
    return home


@pytest.fixture
def other(bench: Bench, tmp_path: Path) -> Iterator[Bench]:
    """The other machine's console."""
    made = Bench(tmp_path, tmp_path / "other")
    made.procedures = Procedures(made.state, made.cluster, runner=RUNNER)
    try:
        yield made
    finally:
        made.end_all()


def age(node: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(node / FILE, (then, then))


async def test_the_other_is_refused_told_by_whom_and_free_once_it_is_done(
    bench: Bench, other: Bench, node: Path
) -> None:
    held = bench.hold("apply-a")
    first = await bench.procedures.start(bench.plan("a"))
    await bench.reached("apply-a")
    said = json.loads((node / FILE).read_text())
    assert (said["procedure"], said["node"]) == (first, "mark")
    with pytest.raises(ProcedureError, match=rf"has held mark for \d+ s with procedure {first}.*attach {first}"):
        await other.procedures.start(other.plan("b"))
    assert other.procedures.list() == ()
    held.unlink()
    assert (await bench.followed(first))[-1]["outcome"] == "done"
    assert not (node / FILE).exists()
    second = await other.procedures.start(other.plan("b"))
    assert (await other.followed(second))[-1]["outcome"] == "done"
    assert os.listdir(node / ".tierdeck") == []


@pytest.mark.parametrize("ending", ["failed", "cancelled", "terminated", "crashed"])
async def test_given_back_on_every_way_out(bench: Bench, node: Path, ending: str) -> None:
    held = bench.hold("apply-a")
    if ending in ("failed", "crashed"):
        (bench.toys / f"{'fail' if ending == 'failed' else 'crash'}-applied-a").touch()
    procedure = await bench.procedures.start(bench.plan("a", "b"), attended=False)
    await bench.reached("apply-a")
    assert (node / FILE).exists()
    if ending == "cancelled":
        await bench.procedures.cancel(procedure)
        await bench.procedures.cancel(procedure)
    elif ending == "terminated":
        os.kill(bench.pid(procedure), signal.SIGTERM)
    held.unlink()
    await bench.followed(procedure)
    assert not (node / FILE).exists()


async def test_killed_it_stays_here_it_is_known_to_be_dead_and_elsewhere_once_it_is_stale(
    bench: Bench, other: Bench, node: Path
) -> None:
    held = bench.hold("apply-a")
    first = await bench.procedures.start(bench.plan("a", "b"))
    await bench.reached("apply-a")
    os.kill(bench.pid(first), signal.SIGKILL)
    await until(lambda: bench.state_of(first).state == "lost", "the runner to die")
    assert (node / FILE).exists()
    with pytest.raises(ProcedureError, match="has held mark"):
        await other.procedures.start(other.plan("c"), take_over=True)
    age(node, 80)
    with pytest.raises(ProcedureError, match=r"last sign of life 8\d s ago.*--take-over"):
        await other.procedures.start(other.plan("c"))
    held.unlink()
    await bench.procedures.resume(first)
    assert (await bench.followed(first))[-1]["outcome"] == "done"
    assert not (node / FILE).exists()


async def test_another_procedure_of_the_machine_whose_runner_died_starts_at_once(bench: Bench, node: Path) -> None:
    held = bench.hold("apply-a")
    first = await bench.procedures.start(bench.plan("a"))
    await bench.reached("apply-a")
    os.kill(bench.pid(first), signal.SIGKILL)
    await until(lambda: bench.state_of(first).state == "lost", "the runner to die")
    held.unlink()
    second = await bench.procedures.start(bench.plan("b"))
    assert (await bench.followed(second))[-1]["outcome"] == "done"


async def test_taken_over_while_it_slept_it_changes_nothing_more(bench: Bench, other: Bench, node: Path) -> None:
    held = bench.hold("verify-a")
    first = await bench.procedures.start(bench.plan("a", "b"), attended=False)
    await bench.reached("verify-a")
    os.kill(bench.pid(first), signal.SIGSTOP)  # a laptop that is closed
    age(node, 80)
    theirs = other.hold("apply-c")
    second = await other.procedures.start(other.plan("c"), take_over=True)
    await other.reached("apply-c")
    os.kill(bench.pid(first), signal.SIGCONT)
    held.unlink()
    events = await bench.followed(first)
    assert events[-1]["outcome"] == "halted"
    assert "took mark over" in next(e["detail"]["text"] for e in events if e["event"] == "step_failed")
    assert bench.done("b") == ""
    theirs.unlink()
    assert (await other.followed(second))[-1]["outcome"] == "done"
    assert not (node / FILE).exists()


async def test_killed_before_its_first_word_it_holds_nobody_up(bench: Bench, node: Path) -> None:
    """The lease is there, the journal empty."""
    (bench.state / "procedures").mkdir(parents=True)
    journal = bench.state / "procedures" / "20261121-100000-dead.jsonl"
    journal.touch()
    (node / ".tierdeck").mkdir()
    lease = {"owner": "me@here:1", "host": os.uname().nodename, "procedure": journal.stem, "node": "mark", "token": "t"}
    (node / FILE).write_text(json.dumps(lease))
    procedure = await bench.procedures.start(bench.plan("a"))
    assert (await bench.followed(procedure))[-1]["outcome"] == "done"
