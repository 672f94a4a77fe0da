"""Whether a prompt fits: its tokens, estimated or counted, against the context of the model that would read it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from backends.cluster.reading import ModelInfo

if TYPE_CHECKING:
    from backends.cluster.inventory import Inventory

PER_TOKEN: Final = 3.5
"""Characters of a token, on the safe side: English prose has about four, code about three."""

IMAGE: Final = 1024
"""Tokens of an image; engines take some hundred to two thousand."""

ROOM: Final = 256
"""Tokens to be left for an answer, but no more than a quarter of a small context."""

HOPELESS: Final = 16
"""Bytes of a token that no text reaches on average: beyond this many times the context nothing needs to be counted."""


def estimate(text: str, *, images: int = 0) -> int:
    """About how many tokens a prompt has, without any tokenizer; what takes several bytes a character counts as one."""
    wide = 0 if text.isascii() else (len(text.encode("utf-8", "replace")) - len(text)) // 2
    return round(max(0, len(text) - wide) / PER_TOKEN) + wide + images * IMAGE


def context_of(inventory: Inventory, model: ModelInfo | None) -> int | None:
    """The context of a model in tokens: what its engine says, else what the inventory says of that name."""
    if model is None or model.context is not None:
        return model.context if model else None
    names = {model.name, PurePosixPath(model.name).name.removesuffix(".gguf")}
    return next((m.context for m in inventory.models if m.name in names), None)


def fits(tokens: int, context: int | None) -> bool:
    """Whether so many tokens leave room for an answer; an unknown context is given the benefit of the doubt."""
    return context is None or tokens + min(ROOM, context // 4) <= context


def uncertain(text: str, context: int | None) -> bool:
    """Whether only a count can tell: a token is at least a byte long as a rule, and never as long as HOPELESS."""
    if context is None:
        return False
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return not fits(size, context) and size <= HOPELESS * context
