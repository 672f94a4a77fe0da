"""How an endpoint bears several prompts at once: time to the first token and tokens per second, level by level."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from backends.engines.chat import ChatEvent, Finished
from backends.errors import ChatError

LEVELS: Final = (1, 2, 4, 8)
"""Prompts at once."""

TOKENS: Final = 64
"""Tokens asked for in each answer."""

Send = Callable[[str, int], AsyncGenerator[ChatEvent, None]]
"""Sends a prompt and asks for that many tokens at most."""


@dataclass(frozen=True, slots=True)
class Level:
    """So many prompts at once: how many of them failed and the first error, and what the others tell.

    `first_ms` is the median time to the first token, `tokens_per_s` what all made together in the whole time that the
    level took, `each_per_s` the median pace of one answer.
    """

    concurrency: int
    failed: int
    first_ms: float | None
    tokens_per_s: float | None
    each_per_s: float | None
    error: str = ""


async def bench(send: Send, levels: Sequence[int] = LEVELS, tokens: int = TOKENS) -> AsyncGenerator[Level, None]:
    """Each level in turn, after one short prompt that is not measured; a level in which any failed is the last.

    Raises ChatError where that first prompt fails. Closing it closes every connection.
    """
    async with aclosing(send("Say one word.", 4)) as events:
        async for _ in events:
            pass
    for concurrency in levels:
        level = await _level(send, concurrency, tokens)
        yield level
        if level.failed:
            return


async def _level(send: Send, concurrency: int, tokens: int) -> Level:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_one(send, number, tokens)) for number in range(concurrency)]
    seconds = loop.time() - began
    ends = [task.result() for task in asked]
    done = [end for end in ends if isinstance(end, Finished)]
    errors = [end.message for end in ends if isinstance(end, ChatError)]
    first = [end.first_token_s for end in done if end.first_token_s is not None]
    paces = [end.tokens_per_s for end in done if end.tokens_per_s is not None]
    return Level(
        concurrency,
        len(errors),
        1000 * statistics.median(first) if first else None,
        sum(end.tokens_out for end in done) / seconds if done and seconds > 0 else None,
        statistics.median(paces) if paces else None,
        errors[0] if errors else "",
    )


async def _one(send: Send, number: int, tokens: int) -> Finished | ChatError:
    """One answer's figures; each prompt begins differently, so that none is answered out of another's cache."""
    prompt = f"{number + 1}. Tell a story about a lighthouse keeper and {number + 2} ships, in about 200 words."
    try:
        async with aclosing(send(prompt, tokens)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event
    except ChatError as error:
        return error
    return ChatError("It ended without an answer.")


def rows(levels: Sequence[Level], width: int, *, block: str = "█") -> list[str]:
    """The levels as a plot of at most `width` cells: a bar for tokens per second, and the figures behind it."""
    most = max((level.tokens_per_s or 0.0 for level in levels), default=0.0) or 1.0
    room = max(4, width - 51)
    return [_row(level, most, room, block) for level in levels]


def _row(level: Level, most: float, room: int, block: str) -> str:
    bar = block * max(1, round(room * (level.tokens_per_s or 0.0) / most)) if level.tokens_per_s else ""
    return f"{level.concurrency:>3} {bar:<{room}} {figures(level)}"


def figures(level: Level) -> str:
    """One level in words."""
    rate = "?" if level.tokens_per_s is None else f"{level.tokens_per_s:.1f}"
    each = "?" if level.each_per_s is None else f"{level.each_per_s:.1f}"
    first = "?" if level.first_ms is None else f"{level.first_ms:.0f}"
    failed = f"  {level.failed} failed: {level.error}" if level.failed else ""
    return f"{rate:>6} tok/s, {each:>6} each, {first:>6} ms to first{failed}"
