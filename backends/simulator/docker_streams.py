"""What Docker sends for as long as somebody listens: logs and events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Mapping

from aiohttp import web

from backends.simulator import docker_shapes as shapes
from backends.simulator.containers import LogBook, SimContainer
from backends.simulator.docker_wire import HEADERS, DockerFault, Filters, Json, filters_of, frame, number, true
from backends.simulator.world import rfc3339

KEPT = 1000
"""How many events are remembered for `since`."""


async def logs(request: web.BaseRequest, log: LogBook) -> web.StreamResponse:
    """Lines in frames; with `follow` until the container ends."""
    query = request.query
    if not true(query.get("stdout")) and not true(query.get("stderr")):
        raise DockerFault(400, "Bad parameters: you must choose at least one stream")
    since, stamped, tail = number(query.get("since")) or 0.0, true(query.get("timestamps")), query.get("tail", "all")
    response = web.StreamResponse(headers=HEADERS | {"Content-Type": "application/vnd.docker.multiplexed-stream"})
    await response.prepare(request)
    at = max(0, len(log.lines) - int(tail)) if tail.isdigit() else 0
    while True:
        for when, line in log.lines[at:]:
            if when >= since:
                await response.write(frame((f"{rfc3339(when)} {line}" if stamped else line) + "\n"))
            at += 1
        if at < len(log.lines):
            continue
        if not true(query.get("follow")) or not log.open:
            return response
        await log.changed()


class EventLog:
    """What happened, and who listens."""

    def __init__(self) -> None:
        self._past: deque[Json] = deque(maxlen=KEPT)
        self._followers: set[asyncio.Queue[Json]] = set()

    def tell(self, container: SimContainer, action: str, more: Mapping[str, str]) -> None:
        """Something happened to a container."""
        spec = container.spec
        if action == "start":
            self._network("connect", container)
        attributes = {**spec.labels, **more, "image": spec.image, "name": container.name}
        self._add(shapes.event("container", action, container.id, attributes, time.time()))
        if action == "die":
            self._network("disconnect", container)

    def _network(self, action: str, container: SimContainer) -> None:
        """What is heard besides by whoever does not ask for containers only."""
        attributes = {"container": container.id, "name": "bridge", "type": "bridge"}
        self._add(shapes.event("network", action, shapes.digest("bridge")[7:], attributes, time.time()))

    def _add(self, event: Json) -> None:
        self._past.append(event)
        for queue in self._followers:
            queue.put_nowait(event)

    async def follow(self, request: web.BaseRequest) -> web.StreamResponse:
        """Lines of JSON, from `since` to `until`, or for ever."""
        filters = filters_of(request)
        since, until = number(request.query.get("since")), number(request.query.get("until"))
        response = web.StreamResponse(headers=HEADERS | {"Content-Type": "application/json"})
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._followers.add(queue)
        try:
            past = [event for event in self._past if since is not None and event["timeNano"] / 1e9 >= since]
            await response.prepare(request)
            for event in past:
                await _send(response, event, filters)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else max(0.0, until - time.time())):
                    while True:
                        await _send(response, await queue.get(), filters)
        finally:
            self._followers.discard(queue)
        return response


async def _send(response: web.StreamResponse, event: Json, filters: Filters) -> None:
    actor = event["Actor"]
    attributes: dict[str, str] = actor["Attributes"]
    have = {
        "type": {event["Type"]},
        "event": {event["Action"]},
        "container": {actor["ID"], attributes.get("name", "")},
        "label": {f"{key}={value}" for key, value in attributes.items()} | set(attributes),
    }
    if all(key not in have or have[key] & set(values) for key, values in filters.items()):
        await response.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
