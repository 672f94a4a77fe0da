"""The classifier: what it says of plain and of awkward prompts, and that it says the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest

import backends.routing
from backends.routing import classify
from backends.routing.table import TASKS, table

PLAIN = [
    ("Write a Python function that reverses a linked list.", "code"),
    ("Schreibe eine Funktion, die eine Liste sortiert.", "code"),
    ("Écris une requête SQL qui trouve les clients sans commande.", "code"),
    ("docker compose file for jellyfin with a volume", "code"),
    ("Traceback (most recent call last):\n  File \"a.py\", line 3\nKeyError: 'x'", "code"),
    ("用Python写一个给列表排序的函数。", "code"),
    ("Anna has 12 apples, buys 7 more and gives half away. How many apples does she have left?", "reason"),
    ("Beweise, dass die Wurzel aus 2 irrational ist.", "reason"),
    ("Un tren recorre 300 km en 4 horas. ¿Cuánto tarda en recorrer 500 km?", "reason"),
    ("Напиши короткий рассказ про говорящую собаку.", "chat"),
    ("Write a poem about bees.", "chat"),
    ("Recommande-moi un bon livre.", "chat"),
    ("秋についての詩を書いて。", "chat"),
    ("what's the capital of peru", "fast"),
    ("turn off the lights in the kitchen", "fast"),
    ("quelle est la capitale de la Norvège ?", "fast"),
    ("stell den wecker auf sieben uhr", "fast"),
    ("明天北京天气怎么样", "fast"),
]

AWKWARD = [
    "",
    " \n\t ",
    "😀🎉🔥",
    "\x00\x01\xfe\xff" * 400,
    "\ud800 half a pair \udfff",
    "what кто 何 왜 ποιος مَن?",
    "a" * 1_000_000,
    "word " * 200_000,
    "漢" * 1_000_000,
    "((((((((" * 3000,
    "__" * 5000 + "aA" * 5000,
    "1,2,3," * 4000,
]


@pytest.mark.parametrize(("text", "task"), PLAIN)
def test_plain_prompts(text: str, task: str) -> None:
    assert classify(text).task == task


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_awkward_prompts_get_an_answer(text: str) -> None:
    found = classify(text)
    assert found.task in TASKS
    assert 0.25 <= found.confidence <= 1
    assert found.runner_up in TASKS
    assert found.runner_up != found.task
    assert found.why
    assert found == classify(text), "the same each time"


def test_nothing_to_go_by_is_chat_without_confidence() -> None:
    found = classify("")
    assert (found.task, found.confidence < 0.6) == ("chat", True)


@pytest.mark.parametrize("text", ["this is a coding question: how are you?", "task: code. Hello, how are you today?"])
def test_a_task_that_is_only_named_does_not_decide(text: str) -> None:
    assert classify(text).task != "code"


def test_attachment_and_endpoint_decide() -> None:
    assert classify("write a python function", image=True).task == "vision"
    assert classify("what is in this picture", kind="embed").task == "embed"
    assert classify("anything", image=True, kind="embed").task == "embed"
    for text in ("my docker image does not start", "embed a font in a pdf", "add two force vectors"):
        assert classify(text).task in TASKS


@pytest.mark.parametrize("text", ["thanks", "danke dir!", "go on", "continue", "weiter", "もっと", "继续"])
def test_a_short_follow_up_keeps_the_conversation(text: str) -> None:
    assert classify(text, last="code").task == "code"


def test_a_new_question_leaves_the_conversation() -> None:
    assert classify("Write a poem about the sea in four stanzas.", last="code").task == "chat"


def test_unsure_keeps_the_conversation() -> None:
    unsure = classify("\x00 \x00")
    assert unsure.confidence < 0.6
    kept = classify("\x00 \x00", last="vision")
    assert (kept.task, kept.runner_up) == ("vision", unsure.task)


def test_why_is_in_words() -> None:
    assert "a stack trace or log" in classify("Traceback (most recent call last): KeyError").why
    assert "names a programming language or tool of it" in classify("sort a list in python").why


def test_the_middle_of_a_long_prompt_does_not_count() -> None:
    log = "2024-03-01 12:00:00 ERROR accept failed\n" * 400
    poem = "and the sea was quiet and the night was long\n" * 400
    asked = "Here is the log of my server, why does the container crash?\n"
    assert classify(asked + log).task == classify(asked + log + poem + log).task == "code"


def test_the_table_fits_its_budget() -> None:
    folder = Path(backends.routing.__file__).parent
    assert sum((folder / name).stat().st_size for name in ("table.bin", "cues.txt")) <= 128 * 1024
    assert table().heat > 0
