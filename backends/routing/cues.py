"""What in a prompt speaks for a task: words of ten languages by meaning (`cues.txt`), and its outward form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

SHAPES: Final[tuple[tuple[str, str, re.Pattern[str]], ...]] = tuple(
    (name, words, re.compile(pattern, re.MULTILINE))
    for name, words, pattern in (
        ("fence", "a code block", r"```"),
        ("tick", "code in backticks", r"(?<!`)`[^`\n]{1,60}`(?!`)"),
        ("define", "lines of code", r"^\s*(?:def |class |import |from \w+ import|#include|#!|fn |func |const |let |var "
         r"|public |private |function |return |@\w+\(|package |using |CREATE |create table)"),
        ("query", "an SQL statement", r"(?i)\bselect\b.{1,200}\bfrom\b|\binsert into\b|\bgroup by\b|\bcreate table\b"),
        ("call", "a call of a function", r"\b\w+\([^()\n ]*\)"),
        ("braces", "brackets and semicolons of code", r"[{};]\s*$|=>|->|==|!=|\+=|&&|\|\||</\w+>|/>|::"),
        ("snake", "names as in code", r"\b[a-z]+_[a-z_]+\b|\b[a-z]+[A-Z][a-z]+\w*"),
        ("path", "a file or folder", r"(?<![\w/:])(?:~|\.{1,2})?/[\w.-]+(?:/[\w.-]*)+|\b[A-Z]:\\"
         r"|(?<!\S)\.[a-z]{1,5}\b"),
        ("suffix", "a file name", r"\b[\w-]+\.(?:py|js|ts|java|cpp|c|h|rs|go|sh|sql|html|css|json|ya?ml|xml|csv|txt"
         r"|conf|log|toml|ini|md|php|rb|ipynb|xlsx?)\b"),
        ("flag", "options of a command", r"(?<!\S)--?[a-z][\w-]*\b"),
        ("trace", "a stack trace or log", r"Traceback|^\s+at \S+\(|^\s*File \"|(?:Error|Exception)\b"
         r"|\bE[A-Z]{5,}\b|\b(?:ERROR|FATAL|WARN(?:ING)?)\b|\d\d:\d\d:\d\d"),
        ("link", "an address of the web", r"https?://|www\."),
        ("latex", "a formula", r"\$[^$\n]+\$|\\(?:frac|sqrt|sum|int|begin|cdot|left|times)\b|\\[\[(]"),
        ("sum", "an equation", r"\d\s*[-+*/×÷^=<>]\s*\(?\d|\b[a-z]\s*=\s*-?\d|\d[a-z]\s*[-+=]|\b[fg]\([a-z0-9]+\)"
         r"|[²³√≤≥∠π°]"),
        ("choices", "lettered answers", r"(?:^|\s)\(?[AaА][).:．、]\s?.+(?:\n|\s)\(?[BbБВ][).:．、]"),
        ("money", "amounts of money", r"[$€£¥]\s?\d|\d\s?[$€£¥]"),
        ("percent", "percentages", r"\d\s?%"),
        ("decimal", "fractions", r"\d[.,]\d|\d/\d"),
        ("blank", "a gap to fill", r"_{2,}|<mask>|\[MASK\]"),
        ("series", "a row of numbers", r"\d+\s?[,、，]\s?-?\d+\s?[,、，]\s?-?\d+"),
        ("bullets", "a list of points", r"^\s*(?:[-*•]|\d+[.)、])\s+\S"),
        ("quoted", "quoted text", r"[\"“„«「『][^\"”“»」』\n]{2,}[\"”“»」』]"),
        ("asks", "a question mark", r"[?？¿]"),
        ("ends", "ends with a question", r"[?？]\W*\Z"),
        ("loud", "an exclamation", r"[!！]"),
        ("pairs", "fields with values", r"^\s*[\w ]{2,24}[:：]\s?\S"),
        ("story", "a person who has or buys something",
         r"\b[A-Z][a-z]{2,} (?:has|had|bought|buys|sells|sold|gives|gave|makes|wants)\b"),
        ("lower", "typed in lower case", r"\A[^A-Z]{12,}\Z"),
        ("bare", "no punctuation", r"\A[^.,:;!?()。、，？！：]{2,}\Z"),
    )
)  # fmt: skip
"""Outward forms: name, words for a person, pattern."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words by meaning: whole words and two-word phrases, beginnings of words, and what each meaning is called.

    `heads` are the first characters of whole words: a text without spaces is only looked up where one stands.
    """

    whole: dict[str, tuple[int, ...]]
    stems: dict[str, tuple[int, ...]]
    names: tuple[str, ...]
    words: tuple[str, ...]
    heads: frozenset[str]


@cache
def lexicon() -> Lexicon:
    """The words of `cues.txt`, read once: a stem ends in `*`, a phrase joins its two words by `_`."""
    whole: dict[str, list[int]] = {}
    stems: dict[str, list[int]] = {}
    names: list[str] = []
    words: list[str] = []
    for line in (files(__package__) / "cues.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            name, _, meaning = line[1:].partition("] ")
            names.append(name)
            words.append(meaning)
            continue
        for word in line.split():
            where, key = (stems, word[:-1]) if word.endswith("*") else (whole, word.replace("_", " "))
            owners = where.setdefault(key, [])
            if len(names) - 1 not in owners:
                owners.append(len(names) - 1)
    return Lexicon(
        {key: tuple(owners) for key, owners in whole.items()},
        {key: tuple(owners) for key, owners in stems.items()},
        tuple(names),
        tuple(words),
        frozenset(key[0] for key in whole),
    )
