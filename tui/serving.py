"""The console in a browser: each visitor gets a console process of their own, through textual-serve.

Who may come in is decided before anything is started: the address asked for, the page it was asked from, the token.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp_jinja2
from aiohttp import web
from pydantic import SecretStr
from textual_serve.app_service import AppService
from textual_serve.server import Server

AT_ONCE: Final = 8
"""Consoles side by side; each is a process of about 80 MB."""

SHORTEST: Final = 16
"""Characters that a token must have: it stands between the network and a console."""

_COOKIE: Final = "tierdeck"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_ENDING: Final = 5.0


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in: `names` are the hosts that a browser may have asked for, `token` is what it must know.

    The names stop a page of somebody else's that points its own name at this machine (DNS rebinding); the origin
    stops one that opens our WebSocket from afar. The token is given once in the address and kept as a cookie.
    """

    names: frozenset[str]
    token: SecretStr | None = None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def refusal(self, request: web.Request) -> str | None:
        """Why this request is not let in; None: it is."""
        host = (urlsplit(f"//{request.host}").hostname or "").lower()
        if self.names and host not in self.names:
            return f'This console does not answer as "{host}". Name it with --public-url.'
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
            return "Another page asked for this console."
        known = request.cookies.get(_COOKIE, "")
        if self.token is not None and not secrets.compare_digest(known.encode(), self.session.encode()):
            return "Open the address with the token that `tierdeck serve` printed."
        return None

    def knows_token(self, request: web.Request) -> bool:
        """Whether the address itself carries the right token."""
        given = request.query.get("token", "")
        wanted = self.token.get_secret_value() if self.token else None
        return wanted is not None and secrets.compare_digest(given.encode(), wanted.encode())

    @web.middleware
    async def admit(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let the request in, or say why not; a right token becomes a cookie and leaves the address."""
        if self.knows_token(request):
            entered = web.Response(status=303, headers={"Location": request.path, **_HEADERS})
            entered.set_cookie(_COOKIE, self.session, httponly=True, samesite="Strict", secure=request.secure)
            return entered
        if reason := self.refusal(request):
            return web.Response(status=403, text=reason + "\n", headers=_HEADERS)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response


class _Console(AppService):
    """One visitor's console: started without a shell, and ended within a time limit."""

    def __init__(self, argv: Sequence[str], **options: Any) -> None:
        super().__init__(argv[0], **options)
        self._argv = tuple(argv)

    async def _open_app_process(self, width: int = 80, height: int = 24) -> asyncio.subprocess.Process:
        environment = self._build_environment(width=width, height=height)
        environment |= {"TEXTUAL_FPS": "30", "TEXTUAL_ANIMATIONS": "none"}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
        self._process, self._stdin = process, process.stdin
        return process

    async def stop(self) -> None:
        """Ask the console to end as `q` does; after a while it is killed."""
        process = self._process
        try:
            async with asyncio.timeout(_ENDING):
                await super().stop()
                if process is not None:
                    await process.wait()
        except (TimeoutError, OSError):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


class Browsers(Server):
    """Serves the console `argv` starts to browsers that `door` lets in."""

    def __init__(self, argv: Sequence[str], door: Door, *, title: str) -> None:
        page = Path(str(resources.files("tui") / "web"))
        super().__init__(" ".join(argv), title=title, templates_path=page)
        self._argv = tuple(argv)
        self._door = door
        self._open: set[web.WebSocketResponse] = set()

    async def listen(self, host: str, port: int) -> tuple[web.AppRunner, int]:
        """Begin to serve; the runner to clean up and the port that is open. OSError where the port is taken."""
        app = await self._make_app()
        app.middlewares.append(self._door.admit)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_ENDING)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except BaseException:
            await runner.cleanup()
            raise
        return runner, runner.addresses[0][1]

    async def handle_index(self, request: web.Request) -> web.Response:
        """The page that holds the terminal; whatever it loads comes from here."""
        size = min(max(_number(request, "fontsize", 16), 6), 48)
        return aiohttp_jinja2.render_template("app_index.html", request, {"title": self.title, "font_size": size})

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing: the command line has said where the console is."""

    async def on_shutdown(self, app: web.Application) -> None:
        """Close what is open."""
        await asyncio.gather(*(socket.close() for socket in self._open), return_exceptions=True)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A visitor's console, for as long as their page is open."""
        if len(self._open) >= AT_ONCE:
            raise web.HTTPServiceUnavailable(text=f"{AT_ONCE} consoles are open already. Close one.\n")
        socket = web.WebSocketResponse(heartbeat=15)
        await socket.prepare(request)
        console = _Console(
            self._argv,
            write_bytes=socket.send_bytes,
            write_str=socket.send_str,
            close=socket.close,
            download_manager=self.download_manager,
        )
        self._open.add(socket)
        try:
            await console.start(_number(request, "width", 80), _number(request, "height", 24))
            await self._process_messages(socket, console)
        finally:
            self._open.discard(socket)
            await console.stop()
            await socket.close()
        return socket


def _number(request: web.Request, name: str, default: int) -> int:
    words = request.query.get(name, "")
    return int(words) if words.isdecimal() and words.isascii() and len(words) < 5 else default
