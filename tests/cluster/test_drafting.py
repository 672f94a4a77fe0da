"""The questions that write a deployment: which are asked, what is an answer, and the file they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.deploying import load_spec
from backends.cluster.drafting import Answer, questions, write_draft
from backends.cluster.files import parse
from backends.cluster.inventory import Inventory
from backends.errors import InventoryError

TOML = (
    'version = 1\nname = "x"\n[[nodes]]\nname = "mark"\naddress = "10.0.0.2"\n[[nodes]]\nname = "nas"\naddress = "h"\n'
)
REST = {"name": "coder", "node": "mark", "image": "server:1", "port": "3014"}


def inventory() -> Inventory:
    return parse(TOML, Path("cluster.toml")).inventory


def asked(**given: str) -> dict[str, Answer]:
    """What is answered: as given, nothing to the rest."""
    answers: dict[str, Answer] = {}
    for question in questions(inventory()):
        if question.asked(answers):
            answers[question.key] = given.get(question.key, "")
            assert question.mistake(str(answers[question.key])) == "", question
    return answers


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"preset": "llama.cpp", "model": "/m/a.gguf"}, "model port context api_key tasks"),
        ({"preset": "vllm", "model": "hf:a/b@c", "tasks": "code, chat"}, "model port context api_key tasks"),
        ({"preset": "ollama", "pull": "qwen2.5:7b"}, "pull port context tasks"),
        ({"preset": "ollama", "model": "/m/a.gguf"}, "pull model port context tasks"),
        ({"preset": "litellm", "model": "/m/config.yaml", "api_key": "env:KEY"}, "model port api_key"),
    ],
)
def test_each_preset_is_asked_what_it_needs_and_the_file_is_one(
    given: dict[str, str], keys: str, tmp_path: Path
) -> None:
    answers = asked(**REST, **given)
    assert list(answers) == ["name", "node", "preset", "image", *keys.split()]
    path = tmp_path / "deployments" / "coder.toml"
    write_draft(path, answers)
    spec = load_spec(path)
    assert (spec.preset, spec.port) == (given["preset"], 3014)
    assert spec.tasks == (("code", "chat") if "tasks" in given else ())
    with pytest.raises(InventoryError, match="exists already"):
        write_draft(path, answers)


@pytest.mark.parametrize(
    ("key", "words", "mistake"),
    [
        ("name", "", "this needs an answer"),
        ("name", "a b", "a b: expected a name that Docker takes: letters, digits, and . _ - after the first"),
        ("node", "marc", '"marc" is none of them; did you mean "mark"?'),
        ("preset", "sglang", '"sglang" is none of them'),
        ("port", "many", "many: expected a valid integer, unable to parse string as an integer"),
        ("port", "70000", "70000: expected less than or equal to 65535"),
        ("model", "hf:a/b", 'hf:a/b: expected a repository at a pinned revision, such as "hf:ORGANISATION/'),
        ("tasks", "code coder", '"coder" is none of them; did you mean "code"?'),
        ("api_key", "sk-123", "expected"),
        ("context", " ", ""),
    ],
)
def test_what_is_no_answer_is_told_at_once(key: str, words: str, mistake: str) -> None:
    question = next(each for each in questions(inventory()) if each.key == key)
    said = question.mistake(words)
    assert said.startswith(mistake) if key != "api_key" else mistake in said
    assert bool(said) is bool(mistake)
