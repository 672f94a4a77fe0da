"""Server-sent events, however the packets cut them."""

from __future__ import annotations

import pytest

from backends.engines.sse import LONGEST_LINE, Events, Overlong

STREAM = (
    ': hello\r\n\r\ndata: {"a": "é漢😀"}\n\nevent: x\nid: 3\ndata: one\ndata: two\n\n'
    'error: {"error": "bad"}\n\ndata:tight\n\n\n\ndata: [DONE]'
).encode()

EVENTS = [
    ("data", '{"a": "é漢😀"}'),
    ("data", "one\ntwo"),
    ("error", '{"error": "bad"}'),
    ("data", "tight"),
    ("data", "[DONE]"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_any_cut_gives_the_same_events(size: int) -> None:
    events = Events()
    found = [e for at in range(0, len(STREAM), size) for e in events.feed(STREAM[at : at + size])]
    assert [*found, *events.close()] == EVENTS


def test_broken_characters_are_replaced() -> None:
    assert list(Events().feed(b"data: a\xffb\n\n")) == [("data", "a\ufffdb")]


@pytest.mark.parametrize("part", [b"x" * 65536, b"data: " + b"x" * 65536 + b"\n"], ids=["line", "event"])
def test_what_does_not_end(part: bytes) -> None:
    events = Events()

    def feed() -> None:
        for _ in range(LONGEST_LINE // 65536 + 2):
            list(events.feed(part))

    with pytest.raises(Overlong):
        feed()
