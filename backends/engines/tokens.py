"""Counts a prompt's tokens by the engine's own tokenizer, where it has one that can be asked."""

from __future__ import annotations

import json
from typing import Final

from pydantic import BaseModel

from backends.engines.ask import parsed
from backends.engines.http import Http
from backends.engines.models import Count
from backends.engines.target import MIB, ProbeFailure, Target

TOKENIZERS: Final = {"llama.cpp": "content", "vllm": "prompt"}
"""Engines with a `/tokenize` route, and what its field for the text is called."""

LIMIT: Final = 2.0
"""Seconds it may take; a megabyte takes llama.cpp half of one."""

ANSWER: Final = 16 * MIB
"""Bytes of its answer: every token's number."""


class _Tokens(BaseModel):
    tokens: list[int]
    count: Count = None


async def count_tokens(http: Http, target: Target, text: str, model: str | None) -> int | None:
    """The tokens of `text`; None where the engine has no tokenizer, or does not answer well in time.

    Ask it of a model only that is loaded: a router of models would load it, and a sleeper would wake.
    """
    field = TOKENIZERS.get(target.engine)
    if field is None:
        return None
    body = {field: text} | ({"model": model} if model else {})
    try:
        answer = await http.post(
            f"{target.url}/tokenize", json.dumps(body).encode(), timeout=LIMIT, headers=target.headers, limit=ANSWER,
            via=target.via,
        )  # fmt: skip
    except ProbeFailure:
        return None
    said = parsed(answer, _Tokens) if answer.status == 200 else None
    return None if said is None else said.count or len(said.tokens)
