"""`tierdeck route bench`: how fast an endpoint is with one, two, four and eight prompts at once."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING

from backends.errors import InventoryError, ReachError
from tui.verbs.opening import Opened, open_cluster
from tui.verbs.route import known_endpoint

if TYPE_CHECKING:
    from backends.engines.chat import ChatEvent

MOST = 64
"""Prompts at once."""


def run(arguments: argparse.Namespace) -> int:
    """Bench an endpoint; 1 where any prompt failed, 3 where it could not be asked at all."""
    if len(arguments.prompt) < 2:
        raise InventoryError("Which endpoint?", "tierdeck route bench ENDPOINT.")
    levels = _levels(arguments.concurrency or "1,2,4,8")
    opened = open_cluster(arguments)
    known_endpoint(opened, arguments.prompt[1])
    if getattr(arguments, "read_only", False):
        raise InventoryError("Read-only: nothing is sent.", "Leave --read-only out.")
    return asyncio.run(_bench(opened, arguments, levels))


def _levels(text: str) -> list[int]:
    try:
        levels = [int(each) for each in text.split(",")]
    except ValueError:
        levels = []
    if not levels or any(not 1 <= each <= MOST for each in levels):
        raise InventoryError(f"--concurrency {text} cannot be used.", f"Say numbers from 1 to {MOST}, such as 1,2,4,8.")
    return levels


async def _bench(opened: Opened, arguments: argparse.Namespace, levels: list[int]) -> int:
    from backends.engines.bench import TOKENS, bench, figures, rows
    from backends.errors import ChatError
    from backends.routing.choose import Wish, choose
    from backends.world import World

    name, as_json = arguments.prompt[1], getattr(arguments, "json", False)
    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        choice = choose(world.inventory, await world.look(), Wish("chat", target=name, model=arguments.model)).choice
        assert choice is not None
        waking = f"; {choice.reason}" if choice.cold else ""
        words = f"sending {sum(levels)} prompts of {TOKENS} tokens to {name} {choice.model or ''}".rstrip()
        print(f"tierdeck: {words}{waking}", file=sys.stderr)

        def send(prompt: str, tokens: int) -> AsyncGenerator[ChatEvent, None]:
            return world.chat(name, prompt, model=choice.model, max_tokens=tokens)

        found = []
        try:
            async with aclosing(bench(send, levels)) as levels_done:
                async for level in levels_done:
                    found.append(level)
                    if not as_json:
                        print(f"tierdeck: {level.concurrency} at once: {figures(level).strip()}", file=sys.stderr)
        except ChatError as error:
            if error.sent:
                raise
            raise ReachError(error.message, error.advice) from error
    if as_json:
        data = {"schema": "tierdeck.bench/1", "endpoint": name, "model": choice.model}
        print(json.dumps(data | {"levels": [asdict(level) for level in found]}, ensure_ascii=False))
    else:
        print("\n".join(rows(found, shutil.get_terminal_size((100, 24)).columns)))
    return 1 if any(level.failed for level in found) else 0
