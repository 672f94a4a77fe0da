"""`tierdeck history`: what happened, what changed, and an incident carried to another machine."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.cluster.reading import ProcedureReading, Workload, WorkloadReading
from backends.cluster.words import Cause
from backends.history.store import history_path
from tests.cli.driving import Ran, Terminal, tierdeck
from tests.history.playing import at, live, probe
from tests.tui.sample import TOML, readings


def container(seconds: float, **changed: object) -> WorkloadReading:
    own = Workload("mark-v", "docker", "running", id="a" * 64, image="llama:b1", digest="sha256:" + "1" * 64, gpu=True)
    return WorkloadReading("mark", at(seconds), (replace(own, **changed),))  # type: ignore[arg-type]


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A cluster with a history: mark-v was pulled anew, and refuses since."""
    file = tmp_path / "cluster.toml"
    file.write_text(TOML)
    state = tmp_path / "state"
    state.mkdir()
    with live(history_path(state, "lumina", file)) as play:
        play(
            0.0, *(replace(reading, at=at(0.0)) for reading in readings() if not isinstance(reading, ProcedureReading))
        )
        for i in range(1, 40):
            name = "remote/mark-v"
            anew = {"image": "llama:b2", "digest": "sha256:" + "2" * 64, "arguments": ("-ngl", "99")}
            cause = Cause.OK if i < 20 else Cause.REFUSED
            play(5.0 * i, container(5.0 * i, **(anew if i >= 20 else {})), probe(cause, 5.0 * i + 1, name))
    return file


async def history(cluster: Path, *words: str) -> Ran:
    state = {"TIERDECK_STATE": str(cluster.parent / "state")}
    return await tierdeck("history", "--cluster", str(cluster), *words, env=state)


async def test_it_tells_what_happened(cluster: Path) -> None:
    told = await history(cluster)
    assert told.code == 0
    assert "remote/mark-v -> DOWN REFUSED: REFUSED at 101.0" in told.out
    assert "REMOTE -> UNKNOWN (0/3 up)" in told.out
    about = await history(cluster, "--endpoint", "remote/mark-v", "--json")
    (row,) = json.loads(about.out)["moments"]
    assert (row["kind"], row["word"], row["subject"]) == ("endpoint", "DOWN", "remote/mark-v")
    assert row["at"].startswith("2026-11-21T")
    assert (await history(cluster, "--endpoint", "desk")).out == "nothing changed\n"
    assert (
        "Nothing called nobody is recorded. Known are: local/ollama"
        in (await history(cluster, "--endpoint", "nobody")).err
    )
    nonsense = await history(cluster, "--since", "soon")
    assert (nonsense.code, nonsense.out) == (2, "")
    assert "no duration" in nonsense.err


async def test_it_tells_what_changed_since_it_last_worked(cluster: Path) -> None:
    told = await history(cluster, "--changes", "remote/mark-v")
    head, *rows = told.out.splitlines()
    assert "remote/mark-v: DOWN REFUSED; it stopped at" in head
    assert rows == ["  image: llama:b1 -> llama:b2", "  image digest: 111111111111 -> 222222222222",
                    "  arguments: none -> -ngl 99"]  # fmt: skip
    of_node = json.loads((await history(cluster, "--changes", "mark", "--json")).out)["changes"]
    assert [row["endpoint"] for row in of_node] == ["remote/mark-v", "remote/mark-iii", "remote/mark-iv"]
    assert of_node[2]["last_worked"] is None


async def test_an_incident_is_carried_to_another_machine(cluster: Path, tmp_path: Path) -> None:
    target = tmp_path / "incident.tierdeck"
    told = await history(cluster, "export", str(target))
    assert told.code == 0
    assert "tierdeck replay incident.tierdeck" in told.out
    assert target.stat().st_mode & 0o077 == 0
    again = await history(cluster, "export", str(target))
    assert (again.code, again.out) == (1, "")
    assert "exists already" in again.err
    elsewhere = await tierdeck("history", "--file", str(target), env={"TIERDECK_STATE": str(tmp_path / "none")})
    assert elsewhere.out == (await history(cluster)).out


async def test_a_card_is_an_incident_without_names(cluster: Path) -> None:
    told = await history(cluster, "card", "--endpoint", "remote/mark-v")
    assert (told.code, "Read it before you post it" in told.err) == (0, True)
    assert told.out.startswith("# endpoint-2 (llama.cpp): DOWN REFUSED\n")
    assert "image: llama:b1 -> llama:b2" in told.out
    assert "mark" not in told.out
    latest = await history(cluster, "card", "--json")
    assert json.loads(latest.out)["card"].startswith("# endpoint-")
    none = await history(cluster, "card", "--endpoint", "desk", "--since", "1s")
    assert (none.code, none.out) == (1, "")
    assert "No incident is recorded" in none.err


async def test_a_hostile_file_reaches_no_terminal(cluster: Path, tmp_path: Path) -> None:
    target = tmp_path / "evil.tierdeck"
    await history(cluster, "export", str(target))
    with closing(sqlite3.connect(target)) as made, made:
        made.execute("UPDATE moments SET text = ?, word = ?", ("\x1b]0;owned\x07 -> \x1b[2J", "\x1b[31m"))
    told = await tierdeck("history", "--file", str(target))
    assert (told.code, "\x1b" in told.out, "owned" in told.out) == (0, False, True)
    async with Terminal("replay", str(target)) as terminal:
        await terminal.sees("REPLAY", "owned")
        terminal.type("q")
        assert await terminal.ended() == 0
        assert b"]0;owned" not in terminal.raw.replace(b" ]0;owned", b"")


async def test_replay_opens_the_console_on_it(cluster: Path, tmp_path: Path) -> None:
    target = tmp_path / "incident.tierdeck"
    await history(cluster, "export", str(target))
    before = target.read_bytes()
    async with Terminal("replay", str(target), env={"TIERDECK_STATE": str(tmp_path / "none")}) as terminal:
        await terminal.sees("REPLAY", "PAST -", "remote/mark-v", "DOWN")
        terminal.type("\x1b[D")
        await terminal.sees("1/")
        terminal.type("q")
        assert await terminal.ended() == 0
    assert target.read_bytes() == before
    wrong = await tierdeck("replay", str(cluster))
    assert (wrong.code, wrong.out) == (2, "")
    assert "needs a terminal" in wrong.err
    async with Terminal("replay", str(cluster)) as terminal:
        assert await terminal.ended() == 1
        assert "Is it a history of tierdeck?" in terminal.text


async def test_without_a_history_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(TOML)
    told = await tierdeck("history", "--cluster", str(file), env={"TIERDECK_STATE": str(tmp_path / "state")})
    assert (told.code, told.out) == (1, "")
    assert "Nothing is recorded yet" in told.err
