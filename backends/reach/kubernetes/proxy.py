"""A port of ours that leads to a Service through the API's service proxy, with the cluster's own login.

What the engines are asked stays what it is; only the way differs.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from backends.errors import ReachError
from backends.reach.kubernetes.api import KubernetesApi

if TYPE_CHECKING:
    import httpx
    from aiohttp import web

SILENCE: Final = 600.0
"""Seconds without a byte after which an answer is taken for dead; whoever asks has a limit of its own."""

LONGEST_STATUS: Final = 1 << 16
"""Bytes of an answer that may be a Status of the API."""

_KEPT: Final = ("content-type", "accept", "x-api-key")
_TOLD: Final = ("content-type", "retry-after")


class ServiceProxy:
    """Carries requests to one Service, named by an address such as http://NAME.NAMESPACE:PORT."""

    def __init__(self, api: KubernetesApi, url: str) -> None:
        parts = urlsplit(url)
        name, _, namespace = (parts.hostname or "").partition(".")
        secure = "https:" if parts.scheme == "https" else ""
        port = parts.port or (443 if secure else 80)
        self._api = api
        self._base = f"/api/v1/namespaces/{namespace}/services/{secure}{name}:{port}/proxy"
        self._runner: web.AppRunner | None = None

    async def open(self) -> int:
        """Listen on 127.0.0.1; the port."""
        library = await asyncio.to_thread(_web)
        application = library.Application(client_max_size=1 << 28)
        application.router.add_route("*", "/{path:.*}", self._carry)
        quiet = {"access_log": None, "logger": _silent(), "handler_cancellation": True, "shutdown_timeout": 1.0}
        runner: web.AppRunner = library.AppRunner(application, **quiet)
        self._runner = runner
        await runner.setup()
        await library.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    async def close(self) -> None:
        """Stop listening, and end what is carried."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _carry(self, request: web.Request) -> web.StreamResponse:
        library = _web()
        headers = {k: v for k, v in request.headers.items() if k.lower() in _KEPT}
        if (key := request.headers.get("Authorization", "").removeprefix("Bearer ")) and "X-Api-Key" not in headers:
            headers["X-Api-Key"] = key  # the API takes the other header for its own login
        asking = self._api.raw(
            request.method,
            self._base + request.raw_path.partition("?")[0],
            params=request.query_string,
            content=await request.read(),
            headers=headers,
            silence=SILENCE,
        )
        response: web.StreamResponse | None = None
        try:
            async with asking as answer:
                if (words := await _of_the_api(answer)) is not None:
                    return _bad_gateway(words)
                told = {k: v for k, v in answer.headers.items() if k.lower() in _TOLD}
                response = library.StreamResponse(status=answer.status_code, headers=told)
                await response.prepare(request)
                async for piece in answer.aiter_bytes():
                    await response.write(piece)
                return response
        except (ReachError, ConnectionError) as error:
            if response is not None and request.transport is not None:  # it was begun, and cannot be ended well
                request.transport.abort()
                return response
            return _bad_gateway(str(error))


async def _of_the_api(answer: httpx.Response) -> str | None:
    """What the API itself says where no engine was met: a Status, such as of a Service behind which no pod is ready."""
    length = answer.headers.get("content-length", "")
    if answer.status_code < 500 or not length.isdecimal() or int(length) > LONGEST_STATUS:
        return None
    try:
        told = json.loads(await answer.aread())
    except ValueError:
        return None
    if not isinstance(told, dict) or told.get("kind") != "Status":
        return None
    return str(told.get("message", ""))


def _bad_gateway(words: str) -> web.Response:
    """It is not the engine who says so."""
    failed: web.Response = _web().Response(status=502, text=words)
    return failed


def _silent() -> logging.Logger:
    """A log that nobody sees: a client that goes away is no news, and the screen is not ours to write on."""
    logger = logging.Logger("tierdeck.proxy")
    logger.addHandler(logging.NullHandler())
    return logger


def _web() -> Any:
    """aiohttp's server, imported only where a Service is asked this way."""
    return importlib.import_module("aiohttp.web")
