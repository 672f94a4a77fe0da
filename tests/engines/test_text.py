"""Text from outside can neither move a cursor nor grow without end."""

from __future__ import annotations

import pytest

from backends.text import plain, safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\n c\t", "a b c"),
        ("\x1b[2Jgone\x07", "[2Jgone"),
        ("a\u202eb\x9bc\ud800d", "a b c d"),
        ("[bold]x[/]", "[bold]x[/]"),
        ("", ""),
        ("漢字 é", "漢字 é"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_plain_is_bounded() -> None:
    assert plain("x" * 160) == "x" * 160
    assert plain("x" * 161) == "x" * 159 + "…"
    assert plain("x" * 10**7, 5) == "xxxx…"
    assert len(plain(" " * 10**6 + "x", 5)) <= 5


def test_safe_keeps_lines_and_letters() -> None:
    assert safe("a\n\tb 👩‍🚀\r\x1b[0m\x07\x9b\u202e\ud800.") == "a\n\tb 👩‍🚀[0m."
