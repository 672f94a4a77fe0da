"""Has an Ollama fetch a model, make one of a file that lies among its blobs, or forget one; tells how far it is."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from backends.engines.http import Http
from backends.engines.target import Target
from backends.errors import ReachError
from backends.text import plain

SILENCE: Final = 300.0
"""Seconds until an answer begins: to a pull it first asks the registry."""

FORGET_LIMIT: Final = 60.0
"""Seconds for removing a model's files."""

_LONGEST: Final = 1 << 16

Said = AsyncGenerator[tuple[str, float | None], None]
"""What it says line by line, and the share of the bytes of all layers that came."""


def pull(http: Http, target: Target, model: str) -> Said:
    """Have it fetch a model; ReachError where it cannot. One that broke off is gone on with: Ollama keeps what came."""
    return _lines(http, target, "pull", {"model": model}, f"{model} cannot be pulled")


def create(http: Http, target: Target, model: str, files: Mapping[str, str]) -> Said:
    """Have it make a model of `files`, blobs that it has, by their digests; ReachError where it does not take them."""
    return _lines(http, target, "create", {"model": model, "files": dict(files)}, f"{model} cannot be created")


async def forget(http: Http, target: Target, model: str) -> bool:
    """Delete a model with the blobs that no other uses; False where there was none. ReachError where it refuses."""
    body = json.dumps({"model": model}).encode()
    answer = await http.delete(
        f"{target.url}/api/delete", body, timeout=FORGET_LIMIT, headers=target.headers, via=target.via
    )
    if answer.status not in (200, 404):
        words = plain(str(_object(answer.body).get("error") or f"status {answer.status}"))
        raise ReachError(f"{model} cannot be deleted: {words}.")
    return answer.status == 200


async def _lines(http: Http, target: Target, what: str, body: Mapping[str, object], failed: str) -> Said:
    layers: dict[str, tuple[int, int]] = {}
    given = json.dumps({**body, "stream": True}).encode()
    last = ""
    async with http.stream(
        f"{target.url}/api/{what}", given, connect=target.timeout, timeout=SILENCE, headers=target.headers,
        via=target.via,
    ) as stream:  # fmt: skip
        rest = b""
        async for chunk in stream.chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST:
                raise ReachError(f"The Ollama at {target.url} sends no lines.")
            for line in lines:
                said = _object(line)
                if said.get("error"):
                    raise ReachError(f"{failed}: {plain(str(said['error']))}.")
                digest, total, done = said.get("digest"), said.get("total"), said.get("completed")
                if isinstance(digest, str) and isinstance(total, int) and total > 0:
                    layers[digest] = (done if isinstance(done, int) else 0, total)
                whole = sum(total for _, total in layers.values())
                last = str(said.get("status") or "")
                yield last, sum(came for came, _ in layers.values()) / whole if whole else None
        if said := _object(rest):
            last = str(said.get("status") or said.get("error") or last)
    if stream.status != 200 or last != "success":
        raise ReachError(f"{failed}: {plain(last) or f'status {stream.status}'}.")


def _object(line: bytes) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
