"""Reasoning between tags, however the stream cuts it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engines.thinking import Thoughts


def split(pieces: list[str]) -> tuple[str, str]:
    """The reasoning and the answer of a stream."""
    thoughts = Thoughts()
    found = [part for piece in pieces for part in thoughts.split(piece)] + thoughts.rest()
    return "".join(t for t, inner in found if inner), "".join(t for t, inner in found if not inner)


@pytest.mark.parametrize(
    ("whole", "reasoning", "answer"),
    [
        ("plain", "", "plain"),
        ("", "", ""),
        ("<think>why</think>\n\nbecause", "why", "because"),
        ("\n<think>\nwhy\n</think>because", "\nwhy\n", "because"),
        ("<think>never ends", "never ends", ""),
        ("<thinking> is a word", "", "<thinking> is a word"),
        ("say <think>x</think>", "", "say <think>x</think>"),
        ("<think>a</thin</think>b <think>c</think>", "a</thin", "b <think>c</think>"),
        ("<thi", "", "<thi"),
        ("  ", "", "  "),
    ],
)
def test_tags_at_the_beginning(whole: str, reasoning: str, answer: str) -> None:
    assert split([whole]) == (reasoning, answer)
    assert split(list(whole)) == (reasoning, answer)


@given(st.lists(st.text("</think>\n ab", max_size=12), max_size=12))
def test_cuts_make_no_difference_and_nothing_is_lost(pieces: list[str]) -> None:
    whole = "".join(pieces)
    assert split(pieces) == split([whole])
    if not whole.lstrip().startswith("<think>"):
        assert split(pieces) == ("", whole)
