"""A local receiver of messages, heartbeats and whatever else is sent by HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Receiver:
    """What came: path and JSON of each POST, and how many GETs."""

    url: str = ""
    status: int = 204
    posts: list[tuple[str, Any]] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            self.gets.append(request.path)
            return web.Response(text="ok")
        self.posts.append((request.path, json.loads(await request.text())))
        return web.Response(status=self.status)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
