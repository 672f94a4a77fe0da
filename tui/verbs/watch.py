"""`tierdeck watch`: the engine without a screen, for systemd: logs changes, tells people, gives metrics."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

from backends.cluster.reading import Instant
from backends.cluster.report import iso
from backends.errors import InventoryError
from tui.verbs.opening import open_cluster

if TYPE_CHECKING:
    from backends.watch import Watch


def run(arguments: argparse.Namespace) -> int:
    """Watch until told to end."""
    opened = open_cluster(arguments)
    metrics = address(arguments.metrics) if arguments.metrics is not None else None
    for remark in opened.loaded.remarks:
        print(f"tierdeck: {remark}", file=sys.stderr)
    from backends.watch import Watch

    as_json = getattr(arguments, "json", False)

    def say(wall: float, subject: str, word: str, text: str) -> None:
        at = iso(Instant(wall, 0.0))
        if as_json:
            row = {"at": at, "subject": subject, "word": word, "text": text}
            print(json.dumps(row, ensure_ascii=False), flush=True)
        elif subject:
            print(f"{at} {text}", flush=True)
        else:
            print(f"tierdeck: {text}", file=sys.stderr, flush=True)

    watch = Watch(opened.loaded, opened.here, opened.state_dir, say)
    to = len(opened.loaded.inventory.alerts.to)
    print(f"tierdeck: watching {watch.inventory.name}; {to or 'no'} targets are told.", file=sys.stderr, flush=True)
    return asyncio.run(_until_told(watch, metrics, recover=arguments.recover))


async def _until_told(watch: Watch, metrics: tuple[str, int] | None, *, recover: bool) -> int:
    task = asyncio.ensure_future(watch.run(metrics, recover=recover))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return 0
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return 0


def address(words: str) -> tuple[str, int]:
    """HOST:PORT as given with --metrics."""
    host, _, port = words.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InventoryError(f'--metrics: "{words}" is no HOST:PORT.', "For example: --metrics 127.0.0.1:9108")
    return host.strip("[]") or "127.0.0.1", int(port)
