"""One incident as Markdown that can be posted: all that helps, nothing that tells whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.history.card import Incident, card
from backends.history.compare import Difference
from backends.history.moments import Moment
from backends.history.redact import Redactor
from tests.tui.sample import TOML, loaded, snapshot

FALL = 1_795_249_964.0


def told(at: float, kind: str, subject: str, word: str, text: str) -> Moment:
    return Moment(FALL + at, kind, subject, word, text)


def incident(back: Moment | None) -> Incident:
    refused = "remote/mark-v -> DOWN REFUSED: connect refused by 10.0.10.20:3013"
    fall = told(0, "endpoint", "remote/mark-v", "DOWN", refused)
    course = (
        told(-1, "tier", "REMOTE", "DOWN", "REMOTE -> DOWN (0/3 up)"),
        fall,
        told(5, "endpoint", "nas/coder", "DOWN", "nas/coder -> DOWN: of another machine"),
        told(60, "step", "mark", "DEGRADED", "Start queue of mark: begun by ops@desk"),
        told(75, "step", "mark", "UP", "Start queue of mark: docker start mark-v done: ready"),
        *([back] if back else []),
        told(9000, "tier", "REMOTE", "UP", "long after"),
    )
    changed = (Difference("image", "llama:b1", "llama:b2"), Difference("arguments", "", "-ngl 99 | <script>"))
    return Incident("remote/mark-v", fall, back, course, changed)


def test_it_tells_fault_evidence_course_and_cure() -> None:
    back = told(90, "endpoint", "remote/mark-v", "UP", "remote/mark-v -> UP OK: answered")
    text = card(loaded().inventory, snapshot(), incident(back))
    assert text.startswith("# endpoint-2 (llama.cpp): DOWN REFUSED\n\n2026-11-21 08:32 UTC, back after 1 m 30 s.")
    for words in ("connect refused by <address>:3013", "models: mistral-nemo-12b", "    image: llama:b1 -> llama:b2",
                  "    +1 m 15 s  Start queue of node-2: docker start container-2 done: ready"):  # fmt: skip
        assert words in text
    cure = text.partition("## Cure")[2]
    assert "docker start container-2 done: ready" in cure
    assert "of another machine" not in text
    assert "long after" not in text
    for row in text.splitlines():
        assert not row.strip() or row.startswith(("# ", "## ", "    ", "2026-")), row


def test_nothing_tells_whose_it_is() -> None:
    text = card(loaded().inventory, snapshot(), incident(None))
    assert "not back when this was written" in text
    for name in ("mark", "ops", "desk", "lumina", "10.0.10"):
        assert name not in text.lower(), name


def test_what_was_quoted_is_neither_markup_nor_an_escape_sequence() -> None:
    nasty = told(0, "endpoint", "remote/mark-v", "DOWN", "remote/mark-v -> DOWN REFUSED: \x1b[2J\n# heading\n```")
    text = card(loaded().inventory, snapshot(), Incident("remote/mark-v", nasty, None, (nasty,), ()))
    assert "\x1b" not in text
    assert "\n# heading" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("connect refused by 192.168.1.7:80", "connect refused by <address>:80"),
        ("fe80::1:2:3 is silent at 12:30:45", "<address> is silent at 12:30:45"),
        ("anna@host.example wrote", "<person> wrote"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: <key>"),
        ("key sk-proj-abcdef123456 is wrong", "key <key> is wrong"),
        ("/home/anna/models/a.gguf", "/home/<person>/models/a.gguf"),
        ("nas.fritz.box and box7.lan", "<host> and <host>"),
        ("MAC AA:BB:CC:DD:EE:FF", "MAC <hardware address>"),
        ("sha256:" + "ab" * 32, "sha256:<number>"),
        ("Mark-V of MARK", "container-2 of node-2"),
        ("remarkable markdown, skipped-steps", "remarkable markdown, skipped-steps"),
        ("503 Loading model, 41 s", "503 Loading model, 41 s"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert Redactor(parse(TOML, Path("x")).inventory)(text) == shown
