"""What is recorded is what was seen: replayed exactly, found after a kill, bounded, and never worth a crash."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Instant, ProbeResult, ProcedureReading, Reading, Tick
from backends.cluster.words import Cause
from backends.errors import HistoryError
from backends.history.codec import decode_reading, decode_snapshot, reading_text, snapshot_pieces
from backends.history.recorder import Recorder
from backends.history.recording import Recording
from backends.history.store import Writer, connect, history_path, inventory_text, pack, unpack
from tests.history.playing import WALL, Live, at, incident, live, probe
from tests.tui.sample import TOML, loaded, readings, snapshot


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines_of(path: Path) -> list[str]:
    """The verdicts of one endpoint that are on disk by now."""
    try:
        with Recording(path) as recording:
            return [r.moment.word for r in recording.moments(subject="local/ollama")]
    except HistoryError:
        return []


@pytest.mark.parametrize("reading", readings(), ids=lambda reading: type(reading).__name__)
def test_readings_survive_json(reading: Reading) -> None:
    assert decode_reading(unpack(pack(reading_text(reading)))) == reading


def test_snapshots_and_inventories_survive_json() -> None:
    found = decode_snapshot(unpack(pack("".join(snapshot_pieces(snapshot())))))
    assert found == snapshot()
    assert found.endpoints["local/ollama"].taken == snapshot().endpoints["local/ollama"].taken
    inventory = loaded().inventory
    vram = inventory.nodes[0].model_copy(update={"vram": (24576.0,)})
    inventory = inventory.model_copy(update={"nodes": (vram, *inventory.nodes[1:])})
    assert Inventory.model_validate_json(inventory_text(inventory)) == inventory
    check = '[[checks]]\nname = "nas/backup"\ntier = "NAS"\nkind = "age"\npath = "/b"\nlimit = "26h"\nnode = "nas"\n'
    with_check = parse(TOML + check, Path("c.toml")).inventory
    assert Inventory.model_validate_json(inventory_text(with_check)) == with_check


@pytest.mark.parametrize("data", [None, 1, [], {"kind": "Tick"}, {"kind": "Tick", "at": 3}, {"kind": "Tick", "at": {}}])
def test_what_is_no_reading_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"a reading was expected|Field required|should be a dictionary"):
        decode_reading(data)


@pytest.mark.parametrize("evidence", ["half a character: \ud800", "\x1b[2J", "\x00", '"', "ünïcode 漢字"])
@pytest.mark.parametrize("latency", [float("inf"), 1e308, 0.1])
def test_what_json_has_no_word_for_is_kept(evidence: str, latency: float) -> None:
    reading = EndpointReading("a/b", Instant(1.0, 2.0), ProbeResult(Cause.OK, evidence, latency), 5.0)
    kept = decode_reading(unpack(pack(reading_text(reading))))
    assert isinstance(kept, EndpointReading)
    assert kept.result.latency == latency
    assert kept.result.evidence == evidence.replace("\ud800", "?")


def test_fields_that_have_their_default_take_no_room() -> None:
    assert reading_text(Tick(Instant(1.0, 2.0))) == '{"kind":"Tick","at":{"wall":1.0,"mono":2.0}}'
    told = json.loads("".join(snapshot_pieces(snapshot())))
    assert "maintenance" not in told
    assert "fails" not in told["endpoints"]["local/ollama"]


def test_a_reading_of_a_later_version_is_passed_over() -> None:
    assert decode_reading({"kind": "Weather", "at": {}}) is None
    assert decode_reading({"kind": "Tick", "at": {"wall": 1, "mono": 2.0}, "new": 1}) == Tick(Instant(1.0, 2.0))


def test_an_incident_replays_to_the_same_snapshots(tmp_path: Path) -> None:
    path = history_path(tmp_path, "lumina", tmp_path / "cluster.toml")
    with live(path) as play:
        incident(play)
    assert path.stat().st_mode & 0o077 == 0
    with Recording(path) as recording:
        found = recording.moments(subject="local/ollama")
        assert [r.moment.word for r in found] == ["DOWN", "UP"]
        for recorded in recording.moments():
            past = recording.at(recorded)
            assert past.inventory == loaded().inventory
            assert past.snapshot in play.all
            assert past.snapshot.taken is not None
            assert past.snapshot.taken.wall == recorded.moment.at
        down = recording.at(found[0]).snapshot.endpoints["local/ollama"]
        assert (down.cause, down.evidence) == (Cause.REFUSED, "REFUSED at 100.0")
        assert recording.latest().snapshot == play.seen
        assert recording.moments(since=WALL + 150.0)[0].moment.at > WALL + 150.0


def test_what_a_killed_console_recorded_is_there(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with live(path) as play:
        incident(play)
        until(lambda: len(lines_of(path)) == 2)
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in (path, path.with_name(path.name + "-wal")):
            (copy / file.name).write_bytes(file.read_bytes())
    assert lines_of(copy / path.name) == ["DOWN", "UP"]


def test_a_corrupt_file_is_set_aside(tmp_path: Path) -> None:
    path, told = tmp_path / "h.sqlite3", list[str]()
    path.write_bytes(b"no database at all, but long enough to be taken for one " * 40)
    with live(path, told) as play:
        incident(play)
    assert len(told) == 2
    assert "corrupt" in told[0]
    assert "readings were not recorded" in told[1]
    assert path.with_suffix(".corrupt").read_bytes().startswith(b"no database")
    with Recording(path) as recording:
        assert recording.moments()


class Full(Writer):
    """A writer whose disk is full from the start."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._connection.execute("PRAGMA max_page_count = 1").fetchall()


def test_a_full_disk_is_told_once_and_recording_goes_on_later(tmp_path: Path) -> None:
    path, told, opened = tmp_path / "h.sqlite3", list[str](), list[Path]()

    def make(at: Path) -> Writer:
        opened.append(at)
        return Full(at) if len(opened) < 4 else Writer(at)

    with live(path, told, make) as play:
        incident(play)
        incident(play, 300.0)
    assert len(opened) == 4
    assert told[0].partition(" (")[0] == "History is not recorded: database or disk is full"
    assert told[1].startswith("History is recorded again;")
    lost = int(told[1].split()[4])
    assert 20 < lost < 300
    with Recording(path) as recording:
        assert recording.moments(subject="local/ollama")
        (gap,) = [r for r in recording.moments() if r.moment.kind == "gap"]
        assert gap.moment.text.startswith(f"{lost} readings were not recorded")
        assert recording.at(gap).snapshot in play.all


@pytest.mark.parametrize("each", [1, 2, 100])
def test_where_there_are_many_endpoints_whole_snapshots_are_kept_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int
) -> None:
    monkeypatch.setattr("backends.history.recorder.CHECKPOINT_AFTER", 1)
    monkeypatch.setattr("backends.history.recorder.EACH", each)
    path, endpoints = tmp_path / "h.sqlite3", len(loaded().inventory.endpoints)
    with live(path) as play:
        for i in range(rounds := 3 * endpoints):
            play(0.01 * i, probe(Cause.OK, 0.01 * i))  # and a tick
    with closing(sqlite3.connect(path)) as kept:
        (count,) = kept.execute("SELECT count(*) FROM checkpoints").fetchone()
    apart = -(-each * endpoints // 2)
    assert count == -(-rounds // apart)


class Hung(Writer):
    """A writer whose disk answers only when it is let go."""

    let_go = threading.Event()

    def __init__(self, path: Path) -> None:
        self.let_go.wait(20.0)
        super().__init__(path)


def test_a_hung_disk_holds_up_neither_the_console_nor_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.history.recorder.WAITING", 10)
    path, told = tmp_path / "h.sqlite3", list[str]()
    with live(path, told, Hung) as play:
        began = time.monotonic()
        incident(play)
        assert time.monotonic() - began < 1.0
        Hung.let_go.set()
        until(lambda: path.exists() and play.recorder._queue.empty())
        play(400.0, probe(Cause.OK, 400.0))
    (said,) = told
    lost = int(said.split()[4])
    assert lost >= 2 * (60 - 12)
    with Recording(path) as recording:
        assert recording.latest().snapshot == play.seen
        assert f"{lost} readings" in "".join(r.moment.text for r in recording.moments())
    Hung.let_go.clear()
    play = Live(Recorder(path, loaded().inventory, told.append, open=Hung))
    incident(play, 500.0)
    began = time.monotonic()
    play.recorder.close()
    assert time.monotonic() - began < 4.0
    Hung.let_go.set()
    play.recorder.close()


def test_procedures_that_stand_still_take_no_room(tmp_path: Path) -> None:
    (listed,) = [r for r in readings() if isinstance(r, ProcedureReading)]
    (running,) = listed.procedures
    old = [replace(running, id=f"old-{i}", state="done", title=f"{i} " + "x" * 200) for i in range(200)]
    path = tmp_path / "h.sqlite3"
    with live(path) as play:
        for i in range(60):
            running = replace(running, steps=(replace(running.steps[0], detail=f"{i} s"), *running.steps[1:]))
            play(float(i), replace(listed, at=at(i), procedures=(running, *old)))
    with Recording(path) as recording:
        assert recording.latest().snapshot == play.seen
        checkpoint = recording._rows("SELECT max(id) FROM checkpoints")[0][0]
        entries = [e for (blob,) in recording._rows("SELECT data FROM readings") for e in unpack(blob)]
        assert checkpoint == 1
    full = [e for e in entries if isinstance(e, dict) and isinstance(e.get("procedures", [""])[-1], dict)]
    assert len(full) == 1


def test_two_inventories_of_one_name_have_two_files(tmp_path: Path) -> None:
    one, two = (history_path(tmp_path, "home", tmp_path / name) for name in ("a.toml", "b.toml"))
    assert one != two
    assert history_path(tmp_path, "a/b" * 90, tmp_path).parent == tmp_path


def test_one_records_and_the_other_reads_until_it_may(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with live(path) as first:
        incident(first)
        until(lambda: lines_of(path) == ["DOWN", "UP"])
        with live(path) as second:
            incident(second)
        assert not second.recorder.records
        assert lines_of(path) == ["DOWN", "UP"]
    with live(path) as third:
        incident(third, 1000.0)
    with Recording(path) as recording:
        assert [r.moment.word for r in recording.moments(subject="local/ollama", since=WALL + 900)] == ["DOWN", "UP"]


def test_age_and_size_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with live(path, make=partial(Writer, keep_for=3600.0)) as play:
        for hour in range(5):
            incident(play, hour * 3600.0)
    with closing(connect(path, write=False)) as made:
        (oldest,) = made.execute("SELECT min(at) FROM checkpoints").fetchone()
        assert oldest >= WALL + 3 * 3600.0
        assert made.execute("SELECT count(*) FROM moments WHERE at < ?", (oldest,)).fetchone() == (0,)
    with closing(Writer(path, keep_bytes=60_000)) as writer:
        for i in range(300):
            number = writer.checkpoint(
                WALL + 20_000 + i, "{}", json.dumps({"filler": str(i) * 2000, "odd": list(range(i))})
            )
        assert writer._used() <= 80_000
        assert writer._connection.execute("SELECT max(id) FROM checkpoints").fetchone() == (number,)


def test_a_part_is_exported_and_nothing_is_written_over(tmp_path: Path) -> None:
    path, target = tmp_path / "h.sqlite3", tmp_path / "incident.tierdeck"
    with live(path) as play:
        incident(play)
        incident(play, 7200.0)
    with Recording(path) as recording:
        count = recording.export(target, since=WALL + 7200.0)
        with pytest.raises(HistoryError, match="exists already"):
            recording.export(target)
        whole = len(recording.moments())
    assert 0 < count < whole
    with Recording(target) as copy:
        assert len(copy.moments()) == count
        assert copy.latest().snapshot == play.seen


def test_what_is_no_history_is_told(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="Nothing is recorded yet"):
        Recording(tmp_path / "none")
    other = tmp_path / "other"
    with closing(sqlite3.connect(other)) as made:
        made.execute("CREATE TABLE x (y)")
    with pytest.raises(HistoryError, match="no history of tierdeck"):
        Recording(other)
    other.write_text("text, and a good deal of it " * 100)
    with pytest.raises(HistoryError, match="cannot be read"):
        Recording(other)
    with closing(sqlite3.connect(tmp_path / "newer")) as made:
        made.execute("PRAGMA user_version = 9")
    with pytest.raises(HistoryError, match="newer tierdeck"):
        Recording(tmp_path / "newer")


def test_damaged_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with live(path) as play:
        incident(play)
    for blob in (b"x", *map(pack, ("3", '[["Tick:", 1]]', '[["None:", 1, 2]]', '[{"kind": "Tick"}]', "["))):
        with closing(connect(path, write=True)) as made:
            made.execute("UPDATE readings SET data = ?", (blob,))
        with Recording(path) as recording:
            assert recording.moments()
            with pytest.raises(HistoryError, match="damaged"):
                recording.latest()
