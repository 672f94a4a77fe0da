from __future__ import annotations

from collections.abc import Sequence

import pytest

from backends.errors import ReachError
from backends.reach.streams import LONGEST_LINE, Read, clean, first_words, read_all, split_lines, tail_of


def pieces(*chunks: bytes) -> Read:
    """A stream that comes in exactly these pieces."""
    rest = list(chunks)

    async def read(n: int) -> bytes:
        return rest.pop(0) if rest else b""

    return read


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([], []),
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e\r\ntw", b"o"], ["one", "two"]),
        ([b"\n\n"], ["", ""]),
        ([b"\xc3", b"\xa9\n"], ["é"]),
        ([b"\xff\xfe bad\n", b"\xc3"], ["\ufffd\ufffd bad", "\ufffd"]),
        ([b"a" * (2 * LONGEST_LINE + 1)], ["a" * LONGEST_LINE, "a" * LONGEST_LINE, "a"]),
    ],
)
async def test_split_lines(chunks: Sequence[bytes], lines: list[str]) -> None:
    assert [line async for line in split_lines(pieces(*chunks))] == lines


async def test_read_all_is_bounded() -> None:
    assert await read_all(pieces(b"ab", b"c")) == b"abc"
    with pytest.raises(ReachError, match="more than"):
        await read_all(pieces(*[b"x" * 1000] * 20), limit=10_000)


async def test_tail_keeps_the_end() -> None:
    async with tail_of(pieces(b"abc", b"def"), limit=4) as tail:
        assert await tail == b"cdef"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("plain", "plain"),
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("\x1bPdevice control\x1b\\rest", "rest"),
        ("10%\r50%\r100%\r\n", "100%"),
        ("bell\x07 null\x00 delete\x7f c1\x9b31m", "bell null delete c131m"),
        ("tab\tstays", "tab\tstays"),
        ("\x1b", ""),
        ("right\u202eto left", "rightto left"),
    ],
)
def test_clean(raw: str, text: str) -> None:
    assert clean(raw) == text


def test_first_words() -> None:
    assert first_words("\n  \n\x1b[1mError:\x1b[0m no\nmore") == "Error: no"
    assert first_words("") == ""
    assert len(first_words("long " * 500)) <= 300
