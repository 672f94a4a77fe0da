"""Markdown as lines: what is styled, what stays as it is, and that nothing in it is obeyed."""

from __future__ import annotations

import time

import pytest
from rich.cells import cell_len

from widgets.glyphs import ASCII, UNICODE
from widgets.markdown import KEPT, Markdown


def drawn(text: str, width: int = 40, *, step: int = 10**9) -> list[tuple[tuple[str, str], ...]]:
    """The spans of each line, of a text that comes `step` characters at a time."""
    found = Markdown(UNICODE)
    for at in range(0, len(text), step):
        found.add(text[at : at + step])
        found.lines(width)
    return [each.spans for each in found.lines(width)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("plain words", [(("plain words", ""),)]),
        ("# A heading #", [(("A heading", "title"),)]),
        ("a **bold** `word`", [(("a", ""), (" bold", "title"), (" word", "accent"))]),
        ("- item", [(("• ", "dim"), ("item", ""))]),
        ("2. item", [(("2. ", "dim"), ("item", ""))]),
        ("> said", [(("│ ", "dim"), ("said", "dim"))]),
        ("```python\nx = `1`\n```\nend", [
            (("│ ", "dim"), ("python", "dim")), (("│ ", "dim"), ("x = `1`", "accent")), (("end", ""),),
        ]),
        ("[bold red]no markup[/] \\[x]", [(("[bold red]no markup[/] \\[x]", ""),)]),
        ("2 ** 3 ** 4, a_b_c", [(("2 ** 3 ** 4, a_b_c", ""),)]),
        ("", []),
        ("\n\n", [(), ()]),
    ],
)  # fmt: skip
def test_what_becomes_of_it(text: str, lines: list[tuple[tuple[str, str], ...]]) -> None:
    spaced = [tuple(span for span in spans) for spans in drawn(text)]
    joined = [[("".join(t for t, _ in spans)), {s for _, s in spans}] for spans in spaced]
    assert joined == [[("".join(t for t, _ in spans)), {s for _, s in spans}] for spans in lines]


@pytest.mark.parametrize("width", [1, 2, 7, 20, 39])
def test_no_line_is_wider_than_its_pane(width: int) -> None:
    text = (
        "# 標題 is long enough to be wrapped\n- "
        + "word " * 30
        + "\n> "
        + "x" * 99
        + "\n```\n"
        + "y" * 99
        + "\n```\n`z` " * 9
    )
    for spans in drawn(text, width):
        assert cell_len("".join(t for t, _ in spans)) <= max(width, 4)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_however_it_comes_it_looks_the_same(step: int) -> None:
    text = (
        "# Title\n\nSome **bold words** here and\nthen `code`.\n\n```sh\nls -l\n```\n\n1. one\n2. two "
        + "and more " * 20
    )
    assert drawn(text, 30, step=step) == drawn(text, 30)


def test_without_unicode() -> None:
    found = Markdown(ASCII)
    found.add("- a\n> b\n---\n```\nc\n```\n")
    assert all(each.text.isascii() for each in found.lines(20))


def test_a_text_without_end_is_bounded_in_size_and_time() -> None:
    found = Markdown(UNICODE)
    began = time.process_time()
    for _ in range(40):
        found.add("x" * 65_536)
        found.lines(80)
    for _ in range(40):
        found.add("word\n" * 10_000)
        found.lines(80)
    assert sum(len(each.text) for each in found.lines(80)) <= KEPT
    assert time.process_time() - began < 20


def test_code_stays_code_when_its_beginning_is_forgotten() -> None:
    found = Markdown(UNICODE)
    found.add("```\n" + "x = 1\n" * (KEPT // 6 + 100))
    assert {style for each in found.lines(80) for _, style in each.spans} == {"dim", "accent"}
