"""`tierdeck route --classify`: lines in, lines out, in a process of its own and without an inventory."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.cli.driving import ROOT, TIERDECK

GOOD = [
    ({"text": "Write a Python function that sorts a list.", "image": False, "kind": None}, "code"),
    ({"text": "what is on this picture", "image": True, "kind": None}, "vision"),
    ({"text": "tierdeck is a console", "image": False, "kind": "embed"}, "embed"),
    ({"text": "Write a poem about the sea."}, "chat"),
    ({"text": "what's the capital of peru", "image": None}, "fast"),
    ({"text": "half a pair \ud800"}, None),
]
BAD = [
    b"{broken",
    b"",
    b"[1, 2]",
    b"\xff\xfe",
    b'{"text": 3}',
    b'{"image": true}',
    b'{"text": "x", "image": "yes"}',
    b'{"text": "x", "kind": "chat"}',
    b'{"text": "x", "kind": []}',
    b"[" * 100_000,
]


def told(name: str, given: bytes | None = None) -> tuple[int, list[dict[str, object]], str]:
    done = subprocess.run(
        [*TIERDECK, "route", "--classify", name], input=given, cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_lines_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row, _ in GOOD))
    code, rows, _ = told(str(path))
    assert code == 0
    assert [row["task"] for row in rows][:-1] == [task for _, task in GOOD][:-1]
    assert len(rows) == len(GOOD)
    assert all(set(row) == {"task", "confidence", "runner_up"} for row in rows)


def test_bad_lines_are_answered_in_their_place() -> None:
    good = json.dumps(GOOD[0][0]).encode()
    code, rows, _ = told("-", b"\n".join([good, *BAD, good]))
    assert code == 1
    assert [set(row) for row in rows[1:-1]] == [{"error"}] * len(BAD)
    assert rows[0] == rows[-1]
    assert rows[0]["task"] == "code"


def test_nothing_to_read(tmp_path: Path) -> None:
    assert told("-", b"") == (0, [], "")
    code, rows, words = told(str(tmp_path / "none.jsonl"))
    assert (code, rows) == (1, [])
    assert "none.jsonl cannot be read" in words
    assert told(str(tmp_path))[0] == 1


def test_a_prompt_or_a_file() -> None:
    done = subprocess.run([*TIERDECK, "route"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--classify" in done.stderr
