"""A deployment by a few questions: what is asked, and the file that the answers make."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.words import TASKS
from backends.errors import InventoryError

FOLDER: Final = "deployments"
"""Beside cluster.toml: where files of deployments are looked for, and made."""

PRESETS: Final = ("llama.cpp", "ollama", "vllm", "litellm")

_FILE: Final = "a path, ssh:NODE:PATH, an address"
_KEY: Final = "reference to the key it asks for, such as env:NAME"

Answer = str | int | list[str]
"""What a person typed, or what the program knows already."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question: the key it is for, its words, what is offered, and whether it may be left empty.

    It is for some `presets` only (none named: for all), and only where there is no answer to `without`.
    """

    key: str
    text: str
    words: Sequence[str] = ()
    optional: bool = False
    presets: Sequence[str] = ()
    without: str = ""

    def asked(self, answers: Mapping[str, Answer]) -> bool:
        """Whether it is to be asked after these answers."""
        return (not self.presets or answers.get("preset") in self.presets) and not answers.get(self.without)

    def mistake(self, words: str) -> str:
        """Why that is no answer; "" where it is one."""
        words = words.strip()
        if not words:
            return "" if self.optional else "this needs an answer"
        for word in _several(words) if self.key == "tasks" else (words,):
            if self.words and word not in self.words:
                near = difflib.get_close_matches(word, self.words, n=1, cutoff=0.5)
                return f'"{word}" is none of them' + (f'; did you mean "{near[0]}"?' if near else "")
        return _wrong(self.key, words)


def questions(inventory: Inventory) -> tuple[Question, ...]:
    """What is asked, in order, of those that are `asked` after the answers before."""
    nodes = [node.name for node in inventory.nodes if node.docker is not False]
    return (
        Question("name", "name of the container and the deployment"),
        Question("node", f"node ({', '.join(nodes)})", nodes),
        Question("preset", f"served by ({', '.join(PRESETS)})", PRESETS),
        Question("image", "image, with its version"),
        Question("pull", "model it pulls itself, such as qwen2.5:7b (empty: from a file)", (), True, ("ollama",)),
        Question("model", f"GGUF file: {_FILE}", presets=("ollama",), without="pull"),
        Question("model", f"model: {_FILE}, or hf:ORGANISATION/REPOSITORY@REVISION", presets=("llama.cpp", "vllm")),
        Question("model", f"its config.yaml: {_FILE}", presets=("litellm",)),
        Question("port", "port of the node"),
        Question(
            "context", "context in tokens (empty: what it was trained for)", (), True, ("llama.cpp", "ollama", "vllm")
        ),
        Question("api_key", f"{_KEY} (empty: loopback only)", (), True, ("llama.cpp", "vllm")),
        Question("api_key", _KEY, presets=("litellm",)),
        Question("tasks", f"tasks ({', '.join(TASKS)}; empty: chat)", TASKS, True, ("llama.cpp", "ollama", "vllm")),
    )


def drafted(answers: Mapping[str, Answer]) -> str:
    """The text of the file; who reads it says what is wrong with an answer."""
    lines = ["# A deployment; see: tierdeck deploy FILE --dry-run", "version = 1"]
    for key, answer in answers.items():
        if key == "tasks" and isinstance(answer, str):
            answer = _several(answer)
        words = answer.strip() if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        if words and answer != []:
            bare = not isinstance(answer, str) or (key in ("port", "context") and words.isdecimal())
            lines.append(f"{key} = {words if bare else json.dumps(words, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def write_draft(path: Path, answers: Mapping[str, Answer]) -> None:
    """Write the file, never over one that is there; InventoryError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(drafted(answers))
    except FileExistsError:
        raise InventoryError(f"{path} exists already, and is never written over.", "Name another file.") from None
    except OSError as error:
        raise InventoryError(f"{path} cannot be written: {error.strerror or error}.") from None


def _several(words: str) -> list[str]:
    return words.replace(",", " ").split()


def _wrong(key: str, words: str) -> str:
    """What the file's reader would say of an answer."""
    from pydantic import TypeAdapter, ValidationError

    from backends.cluster.deploying import Spec

    value: object = _several(words) if key == "tasks" else words
    try:
        TypeAdapter(Spec.model_fields[key].rebuild_annotation()).validate_python(value)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        return f"{words[:60]}: expected {said.removeprefix('Value error, ').removeprefix('Input should be ')}"
    return ""
