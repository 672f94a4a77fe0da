"""Has an Ollama fetch a model, and tells how far it is."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Final

from backends.engines.http import Http
from backends.engines.target import Target
from backends.errors import ReachError
from backends.text import plain

SILENCE: Final = 300.0
"""Seconds until the answer begins: it first asks the registry."""

_LONGEST: Final = 1 << 16


async def pull(http: Http, target: Target, model: str) -> AsyncGenerator[tuple[str, float | None], None]:
    """What it says line by line, and the share of the bytes of all layers that came; ReachError where it cannot.

    A pull that broke off is gone on with by the next: Ollama keeps what came.
    """
    layers: dict[str, tuple[int, int]] = {}
    body = json.dumps({"model": model, "stream": True}).encode()
    last = ""
    async with http.stream(
        f"{target.url}/api/pull", body, connect=target.timeout, timeout=SILENCE, headers=target.headers, via=target.via
    ) as stream:
        rest = b""
        async for chunk in stream.chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST:
                raise ReachError(f"The Ollama at {target.url} sends no lines.")
            for line in lines:
                said = _object(line)
                if said.get("error"):
                    raise ReachError(f"{model} cannot be pulled: {plain(str(said['error']))}.")
                digest, total, done = said.get("digest"), said.get("total"), said.get("completed")
                if isinstance(digest, str) and isinstance(total, int) and total > 0:
                    layers[digest] = (done if isinstance(done, int) else 0, total)
                whole = sum(total for _, total in layers.values())
                last = str(said.get("status") or "")
                yield last, sum(came for came, _ in layers.values()) / whole if whole else None
        if said := _object(rest):
            last = str(said.get("status") or said.get("error") or last)
    if stream.status != 200 or last != "success":
        raise ReachError(f"{model} was not pulled: {plain(last) or f'status {stream.status}'}.")


def _object(line: bytes) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
