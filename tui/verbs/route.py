"""`tierdeck route`: who would answer a prompt and why; with --send the answer itself."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from backends.errors import ReachError, TierdeckError
from backends.routing.choose import Decision, Wish, choose
from backends.routing.classify import Classified, classify
from tui.verbs.opening import Opened, open_cluster

if TYPE_CHECKING:
    from backends.cluster.snapshot import ClusterSnapshot


def run(arguments: argparse.Namespace) -> int:
    """Decide, and send if asked to; exit 3 when nobody can serve."""
    opened = open_cluster(arguments)
    target = arguments.target
    if target is not None and target not in opened.loaded.inventory.endpoint_named:
        known = ", ".join(opened.loaded.inventory.endpoint_named)
        raise TierdeckError(f'There is no endpoint "{target}".', f"Known: {known}.")
    return asyncio.run(_route(opened, arguments))


async def _route(opened: Opened, arguments: argparse.Namespace) -> int:
    from backends.engines.chat import Delta, Finished
    from backends.world import World

    as_json = getattr(arguments, "json", False)
    async with World(opened.loaded, opened.here, opened.state_dir) as world:
        snapshot = await world.look()
        task = arguments.task
        classified = Classified(task, 1.0, None, ("you chose it",)) if task else classify(arguments.prompt)
        decision = choose(opened.loaded.inventory, snapshot, Wish(classified.task, target=arguments.target))
        data = _json(opened, snapshot, classified, decision)
        if not as_json:
            words = (
                f"{classified.task} {classified.confidence:.2f} ({', '.join(classified.why)}) -> {decision.sentence}"
            )
            print(words, file=sys.stderr if arguments.send else sys.stdout)
        if decision.chosen is None:
            if as_json:
                print(json.dumps(data, ensure_ascii=False))
            raise ReachError(decision.sentence[0].upper() + decision.sentence[1:] + ".")
        if arguments.send:
            parts: list[str] = []
            async with aclosing(world.chat(decision.chosen, arguments.prompt)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        parts.append(event.text)
                        if not as_json:
                            print(_safe(event.text), end="", flush=True)
                    elif isinstance(event, Finished):
                        data["answer"] = "".join(parts)
                        data["first_token_s"] = event.first_token_s
                        data["tokens_per_s"] = event.tokens_per_s
                        data["tokens_in"], data["tokens_out"] = event.tokens_in, event.tokens_out
            if not as_json:
                print()
        if as_json:
            print(json.dumps(data, ensure_ascii=False))
    return 0


def _safe(text: str) -> str:
    """An answer without anything a terminal could obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def _json(opened: Opened, snapshot: ClusterSnapshot, classified: Classified, decision: Decision) -> dict[str, object]:
    chosen = None
    if decision.chosen is not None:
        endpoint = opened.loaded.inventory.endpoint_named[decision.chosen]
        models = snapshot.endpoints[decision.chosen].models
        model = endpoint.model or (models[0].name if models else None)
        chosen = {"endpoint": endpoint.name, "model": model, "url": endpoint.url}
    return {
        "schema": "tierdeck.route/1",
        "task": classified.task,
        "confidence": classified.confidence,
        "runner_up": classified.runner_up,
        "why": list(classified.why),
        "chosen": chosen,
        "candidates": [{"endpoint": c.endpoint, "outcome": c.outcome, "reason": c.reason} for c in decision.candidates],
    }
