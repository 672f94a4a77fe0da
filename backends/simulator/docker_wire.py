"""How Docker's API writes its answers and reads its questions."""

from __future__ import annotations

import json
import struct
from typing import Any

from aiohttp import web

from backends.simulator import docker_shapes as shapes

Json = dict[str, Any]
Filters = dict[str, list[str]]

HEADERS = {
    "Server": f"Docker/{shapes.VERSION} (linux)", "Api-Version": shapes.API_VERSION,
    "Docker-Experimental": "false", "Ostype": "linux",
}  # fmt: skip


class DockerFault(Exception):
    """An error in Docker's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def answer(data: object, status: int = 200) -> web.Response:
    """A JSON answer, with the line's end that Docker writes."""
    body = json.dumps(data, separators=(",", ":")).encode() + b"\n"
    return web.Response(body=body, status=status, headers=HEADERS | {"Content-Type": "application/json"})


def empty(status: int) -> web.Response:
    """An answer without a body."""
    return web.Response(status=status, headers=HEADERS)


async def body_of(request: web.BaseRequest) -> Json:
    """The question's JSON object."""
    try:
        data = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise DockerFault(400, f"invalid JSON: {error}") from None
    return data if isinstance(data, dict) else {}


def filters_of(request: web.BaseRequest) -> Filters:
    """The filters, be they written as lists or as sets."""
    try:
        raw = json.loads(request.query.get("filters") or "{}")
        return {key: [str(value) for value in values] for key, values in raw.items()}
    except (ValueError, AttributeError, TypeError):
        raise DockerFault(400, "invalid filter") from None


def frame(text: str, stream: int = 1) -> bytes:
    """A piece of a log: eight bytes of header, then the text."""
    data = text.encode()
    return struct.pack(">BxxxL", stream, len(data)) + data


def true(value: str | None) -> bool:
    """Whether a parameter says yes."""
    return (value or "").lower() in ("1", "true")


def number(value: str | None) -> float | None:
    """A parameter's number; Unix seconds may have a fraction."""
    try:
        return float(value) if value else None
    except ValueError:
        raise DockerFault(400, f'strconv.Atoi: parsing "{value}": invalid syntax') from None
