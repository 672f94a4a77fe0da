from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from pathlib import Path

import pytest

from backends.errors import ProcedureError
from backends.procedures import journal as journals
from backends.procedures.events import StepEvent
from backends.procedures.plan import Plan, Step, to_json

PLAN = Plan("queue", "mark", "Start queue of mark", (Step("x", "start a"),), targets=("a",))


def created(procedure: str, at: float = 1000.0) -> StepEvent:
    return StepEvent(at, procedure, "created", None, {"owner": "ops@desk:7", "plan": to_json(PLAN)})


def finished(procedure: str, outcome: str = "done") -> StepEvent:
    return StepEvent(1009.0, procedure, "finished", None, None, outcome)


def output(procedure: str, text: str) -> StepEvent:
    return StepEvent(1001.0, procedure, "output", 0, {"text": text})


def test_modes_and_lines(tmp_path: Path) -> None:
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        journal.write(output("p1", "ünï\u2028code"))
    assert (tmp_path / "procedures").stat().st_mode & 0o777 == 0o700
    assert journal.path.stat().st_mode & 0o777 == 0o600
    lines = journal.path.read_bytes().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["event"] == "created"
    assert [e.text for e in journals.read_events(journal.path)][1] == "ünï\u2028code"


def test_all_but_output_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(fd))
    with journals.create(tmp_path, "p1") as journal:
        synced.clear()
        journal.write(created("p1"))
        assert len(synced) == 1
        journal.write(output("p1", "x"))
        assert len(synced) == 1
        journal.write(StepEvent(1.0, "p1", "step_started", 0))
        assert len(synced) == 2


def test_one_writer(tmp_path: Path) -> None:
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        with pytest.raises(ProcedureError, match="cannot be made"), journals.create(tmp_path, "p1"):
            pass
        with pytest.raises(ProcedureError, match="still runs"), journals.reopen(tmp_path, "p1"):
            pass
    with journals.reopen(tmp_path, "p1"):
        pass


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A", "a/b", "-x", "a" * 65, "."])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProcedureError):
        journals.journal_path(tmp_path, name)


def test_state_is_lost_when_nobody_holds_the_journal(tmp_path: Path) -> None:
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        journal.write(StepEvent(1001.0, "p1", "step_started", 0))
        assert journals.read_state(journal.path).state == "running"
    assert journals.read_state(journal.path).state == "lost"
    with journals.reopen(tmp_path, "p1") as journal:
        journal.write(finished("p1"))
        assert journals.read_state(journal.path).state == "done"
    assert journals.read_state(journal.path).state == "done"


def test_a_torn_line_is_not_read_and_is_cut_off_when_it_goes_on(tmp_path: Path) -> None:
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        journal.write(output("p1", "whole"))
    whole = journal.path.read_bytes()
    for torn in (b"{", b'{"at":"2025-01-01T00:00:00Z","procedure":"p1","event":"finis', b"\0" * 40):
        journal.path.write_bytes(whole + torn)
        assert [e.event for e in journals.read_events(journal.path)] == ["created", "output"]
        with journals.reopen(tmp_path, "p1") as again:
            again.write(finished("p1"))
        assert journal.path.read_bytes().startswith(whole + b'{"at"')
        assert [e.event for e in journals.read_events(journal.path)] == ["created", "output", "finished"]


def test_no_journal_or_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ProcedureError, match="no procedure"):
        journals.read_state(tmp_path / "p9.jsonl")
    with pytest.raises(ProcedureError, match="no procedure"), journals.reopen(tmp_path, "p9"):
        pass
    (tmp_path / "procedures").mkdir()
    (tmp_path / "procedures" / "p9.jsonl").write_bytes(os.urandom(4096))
    assert journals.list_procedures(tmp_path) == ()


def test_output_is_bounded_and_steps_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_OUTPUT", 50_000)
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        journal.write(output("p1", "x" * 40_000))
        for _ in range(1000):
            journal.write(output("p1", "y" * 100))
        journal.write(StepEvent(1.0, "p1", "step_done", 0))
        journal.write(finished("p1"))
    assert journal.path.stat().st_size < 52_000
    events = journals.read_events(journal.path)
    assert [e.event for e in events][-2:] == ["step_done", "finished"]
    assert sum("journal is full" in e.text for e in events) == 1
    assert "bytes left out" in events[1].text


@pytest.mark.parametrize("lines", [1, 0])
def test_a_full_disk_halts_it_with_a_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    real = os.write
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        reserve = journals.reserve_path(journal.path)
        assert reserve.stat().st_size == journals.RESERVE
        calls: list[int] = []

        def write(fd: int, data: bytes) -> int:
            calls.append(fd)
            if len(calls) == 1:
                return real(fd, data[:10])
            if reserve.exists() or not lines:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data)

        monkeypatch.setattr(os, "write", write)
        for _ in range(2):
            with pytest.raises(ProcedureError, match=r"No space left on device.*resume p1"):
                journal.write(StepEvent(1.0, "p1", "step_started", 0))
    found = journals.read_events(journal.path)
    assert [(e.event, e.outcome) for e in found] == [("created", None), ("finished", "halted")][: 1 + lines]
    assert journal.path.read_bytes().count(b"\n") == 1 + lines
    assert not lines or "Nothing more was begun" in found[-1].text
    assert not reserve.exists()


async def test_follow_to_the_end(tmp_path: Path) -> None:
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        seen: list[str] = []
        woken = asyncio.Event()

        async def watch() -> None:
            async for event in journals.follow(journal.path):
                seen.append(event.event)
                woken.set()

        task = asyncio.create_task(watch())
        async with asyncio.timeout(5):
            await woken.wait()
            woken.clear()
            raw = json.dumps(output("p1", "x").to_json()).encode() + b"\n"
            os.write(journal._fd, raw[:20])
            journal._size += len(raw)
            os.write(journal._fd, raw[20:])
            await woken.wait()
            woken.clear()
            journal.write(finished("p1"))
            await woken.wait()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), 0.3)  # its runner still gives the node back
    async with asyncio.timeout(5):
        await task
    assert seen == ["created", "output", "finished"]


async def test_follow_says_lost(tmp_path: Path) -> None:
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
    async with asyncio.timeout(5):
        events = [event async for event in journals.follow(journal.path)]
    assert [e.event for e in events] == ["created", "lost"]
    assert "resume p1" in events[1].text


async def test_follow_reads_past_an_earlier_end(tmp_path: Path) -> None:
    with journals.create(tmp_path, "p1") as journal:
        journal.write(created("p1"))
        journal.write(finished("p1", "halted"))
    with journals.reopen(tmp_path, "p1") as journal:
        journal.write(StepEvent(1.0, "p1", "resumed", None, {"owner": "x"}))
        journal.write(finished("p1"))
    async with asyncio.timeout(5):
        events = [event async for event in journals.follow(journal.path)]
    assert [e.outcome for e in events if e.event == "finished"] == ["halted", "done"]


async def test_follow_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProcedureError, match="no procedure p7"):
        async for _ in journals.follow(tmp_path / "p7.jsonl"):
            pass


def test_the_shelf_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = journals.Shelf(tmp_path)
    assert shelf.read() == ()
    with journals.create(tmp_path, "p1") as done:
        done.write(created("p1", 1.0))
        done.write(finished("p1"))
    with journals.create(tmp_path, "p2") as journal:
        journal.write(created("p2", 2.0))
        assert [(s.id, s.state) for s in shelf.read()] == [("p2", "running"), ("p1", "done")]
        read: list[Path] = []
        real = journals.Reader.read

        def counted(self: journals.Reader, limit: int = 0) -> tuple[list[StepEvent], bool]:
            read.append(self.path)
            return real(self, limit)

        monkeypatch.setattr(journals.Reader, "read", counted)
        journal.write(StepEvent(3.0, "p2", "step_started", 0))
        assert shelf.read()[0].steps[0].state == "running"
        assert done.path not in read
    assert [(s.id, s.state) for s in shelf.read()] == [("p2", "lost"), ("p1", "done")]
    with journals.reopen(tmp_path, "p2") as journal:
        journal.write(StepEvent(4.0, "p2", "resumed", None, {"owner": "x"}))
        assert [(s.id, s.state) for s in shelf.read()] == [("p2", "running"), ("p1", "done")]
    done.path.unlink()
    assert [s.id for s in shelf.read()] == ["p2"]


def test_the_shelf_is_cheap(tmp_path: Path) -> None:
    for i in range(50):
        with journals.create(tmp_path, f"p{i}") as journal:
            journal.write(created(f"p{i}", float(i)))
            journal.write(finished(f"p{i}"))
    shelf = journals.Shelf(tmp_path)
    begun = time.perf_counter()
    first = shelf.read()
    cold = time.perf_counter() - begun
    begun = time.perf_counter()
    assert shelf.read() == first
    assert time.perf_counter() - begun < max(cold, 0.02)


def test_prune_keeps_the_newest_and_all_open_ones(tmp_path: Path) -> None:
    for i in range(8):
        with journals.create(tmp_path, f"p{i}") as journal:
            journal.write(created(f"p{i}", float(i)))
            journal.write(finished(f"p{i}"))
        journal.path.with_suffix(".log").touch()
    with journals.create(tmp_path, "p9") as journal:
        journal.write(created("p9", 0.5))
        journals.prune(tmp_path, keep=3)
        assert {s.id for s in journals.list_procedures(tmp_path)} == {"p5", "p6", "p7", "p9"}
    assert sorted(p.name for p in (tmp_path / "procedures").glob("*.log")) == ["p5.log", "p6.log", "p7.log"]
