"""Turns a prompt into the numbered features that the table weighs; the learner and the router share it."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from zlib import crc32

from backends.routing.cues import SHAPES, Lexicon, lexicon

HEAD: Final = 1000
TAIL: Final = 400
"""Characters looked at, at the beginning and at the end: what is asked stands there, pasted logs stand between."""

SIZES: Final = 4
DIGIT_SIZES: Final = 3

FIRST: Final = 4096
"""The first row of the table that is hashed; those before are cues."""

ROWS: Final = 31_000
"""Rows of the table: the cues first, then the hashed words."""

LENGTHS: Final = (1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 50, 80, 130, 250)
DIGITS: Final = (1, 2, 3, 5, 8, 14)
LINES: Final = (2, 3, 5, 9, 20)

TERMS: Final = 270
"""Words of one prompt that are looked up: more say nothing new."""

FOLLOWUP: Final = 60
FOLLOWUP_WORDS: Final = 5
"""Longer than so many characters or words, a prompt is no mere follow-up."""

_TOKEN: Final = re.compile(r"[぀-ヿ㐀-鿿々]+|[^\W\d_぀-ヿ㐀-鿿々]+(?:['’.+-][^\W\d_]+)*[+#]*|\d+")


@dataclass(frozen=True, slots=True)
class Features:
    """Rows of the table that a prompt lights, in three groups that weigh alike however long the prompt is."""

    cues: tuple[int, ...]
    crosses: tuple[int, ...]
    words: dict[int, str]


def sliced(text: str) -> str:
    """The beginning and the end of a long prompt, in one form of Unicode."""
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}\n{text[-TAIL:]}"
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode()).replace("\u2019", "'")
    return text


def is_followup(text: str) -> bool:
    """Whether a short prompt only goes on with what was said before: thanks, more, shorter, again."""
    if len(text) > FOLLOWUP:
        return False
    known = lexicon()
    _, meanings, length = _terms(sliced(text).lower(), known)
    return length <= FOLLOWUP_WORDS and any(known.names[meaning] in ("hello", "again") for meaning in meanings)


def cue_name(row: int) -> str | None:
    """What a row of the table means, in words for a person; None for words, pairs and the form that all share."""
    known = lexicon()
    count = len(known.names)
    if 1 <= row <= 2 * count:
        return known.words[(row - 1) % count]
    shapes = row - 1 - 2 * count
    if 0 <= shapes < len(SHAPES):
        return SHAPES[shapes][1]
    lengths = shapes - len(SHAPES)
    if 0 <= lengths <= len(LENGTHS):
        return f"{_few(lengths, LENGTHS)} words"
    digits = lengths - len(LENGTHS) - 1
    return f"{_few(digits, DIGITS)} digits" if 0 < digits <= len(DIGITS) else None


def _few(step: int, steps: tuple[int, ...]) -> str:
    return ("few", "some", "many")[min(2, 3 * step // len(steps))]


def features(text: str) -> Features:
    """What a prompt shows: its form, its words by meaning, and its words and pairs of words as they are."""
    text = sliced(text)
    known = lexicon()
    terms, meanings, length = _terms(text.lower(), known)
    count = len(known.names)
    cues = [0, *(1 + meaning for meaning in meanings)]
    if meanings:
        cues.append(1 + count + meanings[0])
    shapes = [number for number, (_, _, pattern) in enumerate(SHAPES) if pattern.search(text)]
    start = 1 + 2 * count
    cues += [start + number for number in shapes]
    start += len(SHAPES)
    digits = sum(map(text.count, "0123456789"))
    for value, steps in ((length, LENGTHS), (digits, DIGITS), (text.count("\n") + 1, LINES)):
        cues.append(start + bisect_right(steps, value))
        start += len(steps) + 1
    few = meanings[:12]
    size = bisect_right((6, 14, 40), length)
    some = bisect_right((1, 4), digits)
    start += count * SIZES
    crosses = [start - count * SIZES + a * SIZES + size for a in few]
    crosses += [start + a * DIGIT_SIZES + some for a in few]
    start += count * DIGIT_SIZES
    crosses += [start + b * SIZES + size for b in shapes]
    start += len(SHAPES) * SIZES
    crosses += [start + a * len(SHAPES) + b for a in few for b in shapes]
    start += count * len(SHAPES)
    crosses += [start + a * count + b for i, a in enumerate(few) for b in few[i + 1 :]]
    return Features(tuple(cues), tuple(crosses), _words(terms))


def _words(terms: list[str]) -> dict[int, str]:
    """Terms, pairs of terms, and how the prompt begins and ends, by row."""
    if len(terms) > TERMS:
        terms = terms[: TERMS - TERMS // 3] + terms[-TERMS // 3 :]
    names = [*terms, *map(" ".join, pairwise(terms))]
    if terms:
        names += ("^" + terms[0], "^" + " ".join(terms[:2]), "$" + terms[-1])
    span = ROWS - FIRST
    return {FIRST + crc32(name.encode()) % span: name for name in dict.fromkeys(names)}


def _terms(text: str, known: Lexicon) -> tuple[list[str], list[int], int]:
    """The terms of a prompt, its meanings in their order, and its length in words."""
    terms: list[str] = []
    meanings: dict[int, None] = {}
    whole, stems = known.whole, known.stems
    before = ""
    length = 0.0
    for token in _TOKEN.findall(text):
        first = token[0]
        if "\u3040" <= first <= "\u9fff":
            length += 0.6 * len(token)
            before = ""
            terms += [token[i : i + 2] for i in range(len(token) - 1)] or [token]
            for i, head in enumerate(token):
                if head not in known.heads:
                    continue
                for end in range(i + 1, min(i + 7, len(token) + 1)):
                    if found := whole.get(token[i:end]):
                        meanings.update(dict.fromkeys(found))
            continue
        length += 1
        if first.isdigit():
            terms.append("0" * min(len(token), 3))
            before = ""
            continue
        terms.append(token)
        if before and (found := whole.get(f"{before} {token}")):
            meanings.update(dict.fromkeys(found))
        before = token
        found = whole.get(token)
        if found is None:
            for end in range(min(len(token), 11), 1, -1):
                if found := stems.get(token[:end]):
                    break
        if found:
            meanings.update(dict.fromkeys(found))
    return terms, list(meanings), round(length)
