"""A deployment by a few questions: what is asked, and the file that the answers make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.cluster.inventory import Inventory
from backends.errors import InventoryError

PRESETS: Final = ("llama.cpp", "ollama", "vllm", "litellm")

Answer = str | int | list[str]
"""What a person typed, or what the program knows already."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question: the key it is for, its words, what is offered, and whether it may be left empty."""

    key: str
    text: str
    words: Sequence[str] = ()
    optional: bool = False


def questions(inventory: Inventory) -> tuple[Question, ...]:
    """What is asked, in order."""
    nodes = [node.name for node in inventory.nodes if node.docker is not False]
    return (
        Question("name", "name of the container and the deployment"),
        Question("node", f"node ({', '.join(nodes)})", nodes),
        Question("preset", f"served by ({', '.join(PRESETS)})", PRESETS),
        Question("image", "image, with its version"),
        Question("model", "model: a path, ssh:NODE:PATH, an address, or hf:ORGANISATION/REPOSITORY@REVISION"),
        Question("port", "port of the node"),
        Question("context", "context in tokens (empty: what it was trained for)", optional=True),
        Question("api_key", "reference to the key it asks for, such as env:NAME (empty: loopback only)", optional=True),
    )


def drafted(answers: Mapping[str, Answer]) -> str:
    """The text of the file; who reads it says what is wrong with an answer."""
    lines = ["# A deployment; see: tierdeck deploy FILE --dry-run", "version = 1"]
    for key, answer in answers.items():
        words = answer.strip() if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        if words:
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
