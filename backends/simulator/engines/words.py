"""Prompts and the words that simulated engines answer them with."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

_CODE = (
    "Here is a function that does it:\n\n```python\n"
    "def moving_average(values: list[float], width: int) -> list[float]:\n"
    "    sums = [0.0]\n    for value in values:\n        sums.append(sums[-1] + value)\n"
    "    return [(b - a) / width for a, b in zip(sums, sums[width:])]\n```\n\n"
    "It keeps running sums, so each window costs one subtraction."
)
_TALK = (
    "A short answer first: yes, and the reason is simpler than it looks.",
    "The memory of a graphics card fills in three steps: weights, cache, and a buffer for the work itself.",
    "If two programs ask for it in the same moment, one of them has to wait, and somebody should say so.",
    "Think of a queue at a bakery: nobody is served faster because everybody shouts.",
    "Measured over a week, most of the time goes to reading the model from disk, not to computing.",
    "I would begin with the smallest change that can be undone, look at it, and only then go on.",
    "In other words: keep the order, watch the gauge, and write down what you did.",
)


@dataclass(slots=True)
class Prompt:
    """What was asked, and what came of it: pieces made so far and why it ended."""

    model: str
    text: str
    tokens: int
    limit: int | None = None
    stream: bool = False
    usage: bool = False
    images: int = 0
    made: int = 0
    finish: str = "stop"


def prompt_of(body: dict[str, Any]) -> Prompt:
    """Read a prompt from a request in OpenAI's or Ollama's shape; tokens are counted as four characters each."""
    texts: list[str] = [str(body["prompt"])] if "prompt" in body else []
    images = 0
    for message in body.get("messages") or ():
        content = message.get("content") or ""
        images += len(message.get("images") or ())
        if isinstance(content, list):
            images += sum(part.get("type") == "image_url" for part in content)
            content = " ".join(str(part.get("text", "")) for part in content)
        texts.append(str(content))
    text = "\n".join(texts)
    options = body.get("options") or {}
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or options.get("num_predict")
    return Prompt(
        model=str(body.get("model", "")),
        text=text,
        tokens=3 + len(text) // 4,
        limit=int(limit) if limit and int(limit) > 0 else None,
        stream=bool(body.get("stream", False)),
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
        images=images,
    )


def reply(text: str, rng: random.Random, length: int) -> list[str]:
    """So many pieces of an answer, each a word with the space behind it."""
    lowered = text.lower()
    if any(word in lowered for word in ("python", "code", "function", "script")):
        whole = _CODE
    else:
        whole = " ".join(rng.sample(_TALK, len(_TALK)))
    pieces = [piece for piece in whole.replace("\n", " \n ").replace("  ", " ").split(" ") if piece]
    while len(pieces) < length:
        pieces += pieces
    spaced = [piece if piece == "\n" else piece + " " for piece in pieces]
    return spaced[:length]
