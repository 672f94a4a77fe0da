"""An API server, asked by kr8s: one session, errors in words, a time limit on everything.

kr8s is imported when a cluster is first asked, in a thread: it costs 0.7 s.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from backends.errors import RuntimeFailure
from backends.reach.kubernetes import refusals
from backends.reach.kubernetes.access import Access, through
from backends.reach.streams import split_lines

if TYPE_CHECKING:
    import httpx
    from kr8s.asyncio import Api

LIMIT: Final = 15.0
"""Seconds for an ordinary answer."""

PAGE: Final = 100
"""Objects of one page of a list: as many as are parsed without a key press being felt."""

MERGE: Final = "application/merge-patch+json"
"""The content type of a patch."""

Find = Callable[[], Awaitable[Access]]
Tunnel = Callable[[str, int], Awaitable[int]]


class KubernetesApi:
    """The API server of one cluster.

    `find` reads how it is reached, and is asked again when the login is refused: tokens expire. `tunnel` leads to a
    host and port through a node, and gives the port of ours.
    """

    def __init__(
        self,
        name: str,
        find: Find,
        *,
        tunnel: Tunnel | None = None,
        limit: float = LIMIT,
    ) -> None:
        self.name = name
        self._find = find
        self._tunnel = tunnel
        self._limit = limit
        self._client: Api | None = None
        self._server = ""
        self._opening = asyncio.Lock()
        self._told: tuple[float, float] | None = None
        self.failure: RuntimeFailure | None = None
        """Why it did not answer last; None where it did, or was not asked yet."""
        self.denials = 0
        """How often it refused a change: what we may has then to be asked anew."""

    @property
    def now(self) -> float:
        """The server's time (Unix seconds), by its last answer; RuntimeFailure where none told it."""
        if self._told is None:
            raise RuntimeFailure(f"{self.name}: its API does not tell the time.")
        wall, mono = self._told
        return wall + time.monotonic() - mono

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None and client._session is not None:
            await client._session.aclose()

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One object, or one page of a list; RuntimeFailure in words, with the status where the API refused."""
        return await self.send("GET", path, params=params)

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        kind: str = "application/json",
    ) -> dict[str, Any]:
        """Ask for something, with a body of that content type."""
        content = None if body is None else json.dumps(body).encode()
        async with self._asked(method, path, params=params, content=content, kind=kind) as response:
            return self._json(response.status_code, response.content)

    async def pages(self, path: str, fields: str = "") -> AsyncGenerator[dict[str, Any], None]:
        """A whole list, page by page, as of one moment; status 410 where that moment is gone before its end.

        `fields` is a field selector, where not all of it is wanted.
        """
        params: dict[str, Any] = {"limit": PAGE} | ({"fieldSelector": fields} if fields else {})
        while True:
            page = await self.get(path, params)
            yield page
            follow = (page.get("metadata") or {}).get("continue")
            if not follow:
                return
            params["continue"] = follow

    @asynccontextmanager
    async def lines(
        self, path: str, params: Mapping[str, Any], *, silence: float | None
    ) -> AsyncGenerator[AsyncGenerator[str, None], None]:
        """A stream of lines (a watch, a log), broken off after `silence` seconds without a word."""
        async with self._asked("GET", path, params=params, silence=silence, stream=True) as response:
            pieces = response.aiter_bytes()

            async def read(_: int) -> bytes:
                try:
                    return await anext(pieces, b"")
                except _failures() as error:
                    raise self._failure(error) from error

            yield split_lines(read)

    @asynccontextmanager
    async def raw(
        self, method: str, path: str, *, params: str, content: bytes, headers: Mapping[str, str], silence: float
    ) -> AsyncGenerator[httpx.Response, None]:
        """An answer as it comes, whatever it is: for what the API passes through to a Service."""
        client = await self._opened()
        base, rest = _split(path)
        url = f"{rest}?{params}" if params else rest
        asking = client.call_api(
            method, version="", base=base, url=url, raise_for_status=False, stream=True, content=content,
            headers=dict(headers), timeout=silence,
        )  # fmt: skip
        try:
            async with asking as response:
                yield response
        except _failures() as error:
            raise self._failure(error) from error

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        kind: str = "application/json",
        silence: float | None = None,
        stream: bool = False,
    ) -> AsyncGenerator[httpx.Response, None]:
        """A good answer; a refused login is renewed once."""
        library = _httpx()
        limit = library.Timeout(self._limit, read=silence if stream else self._limit)
        for again in (True, False):
            client = await self._opened()
            base, rest = _split(path)
            asking = client.call_api(
                method, version="", base=base, url=rest, raise_for_status=False, stream=stream, params=params,
                content=content, headers={"content-type": kind}, timeout=limit,
            )  # fmt: skip
            try:
                async with asking as response:
                    self._hear(response)
                    if response.status_code == 401 and again:
                        await self._log_in_anew(client)
                        continue
                    if response.is_error or "text/html" in response.headers.get("content-type", ""):
                        await response.aread()
                        self.denials += response.status_code == 403 and method != "GET"
                        raise refusals.refusal(self.name, response.status_code, self._parsed(response.content))
                    yield response
                    return
            except _failures() as error:
                raise self._failure(error) from error

    def _json(self, status: int, content: bytes) -> dict[str, Any]:
        found = self._parsed(content)
        if not isinstance(found, dict):
            raise refusals.refusal(self.name, status, content[:2000].decode(errors="replace"))
        return found

    @staticmethod
    def _parsed(content: bytes) -> object:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return content[:2000].decode(errors="replace")

    def _hear(self, response: httpx.Response) -> None:
        self.failure = None
        with suppress(KeyError, ValueError, TypeError):  # a server that does not tell the time just does not
            self._told = parsedate_to_datetime(response.headers["date"]).timestamp(), time.monotonic()

    def _failure(self, error: Exception) -> RuntimeFailure:
        self.failure = refusals.no_answer(self.name, self._server, error, self._limit)
        return self.failure

    async def _log_in_anew(self, refused: Api) -> None:
        async with self._opening:
            if self._client is refused:
                await self.close()

    async def _opened(self) -> Api:
        async with self._opening:
            if self._client is None:
                try:
                    async with asyncio.timeout(max(self._limit, 30.0) + 5.0):
                        self._client = await self._open()
                except TimeoutError as error:
                    raise refusals.no_answer(self.name, self._server, error, self._limit) from error
            return self._client

    async def _open(self) -> Api:
        access = await self._find()
        self._server = access.server
        if self._tunnel is not None:
            parts = urlsplit(access.server)
            access = through(access, await self._tunnel(parts.hostname or "", parts.port or 443))
        library = await asyncio.to_thread(_kr8s)
        client: Api = library.Api(kubeconfig=access.config, serviceaccount="", bypass_factory=True)
        named = {str(v) for entry in _entries(access.config) for v in entry.values()}
        try:
            await client.auth.reauthenticate()
            await client._create_session()
        except (ValueError, OSError, KeyError) as error:
            raise RuntimeFailure(
                f"{self.name}: the login of {access.source} cannot be used ({type(error).__name__}).",
                "Its certificates or keys are damaged: fetch the kubeconfig anew.",
            ) from error
        finally:
            await asyncio.to_thread(_remove_copies, client, named)
        return client


def _split(path: str) -> tuple[str, str]:
    """A path as kr8s wants it: /api, /apis or /version, and the rest."""
    base, _, rest = path[1:].partition("/")
    return f"/{base}", rest


def _entries(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [config["clusters"][0]["cluster"], config["users"][0]["user"]]


def _remove_copies(client: Api, named: set[str]) -> None:
    """kr8s writes keys that stand in a kubeconfig into files; once they are read nobody needs them."""
    auth = client.auth
    for path in (auth.client_key_file, auth.client_cert_file, auth.server_ca_file):
        if path is not None and str(path) not in named:
            Path(path).unlink(missing_ok=True)


def _kr8s() -> Any:
    """kr8s, whose remarks about versions would be written over the screen."""
    warnings.filterwarnings("ignore", module=r"kr8s(\..*)?|httpx_ws(\..*)?|jsonpath(\..*)?")
    try:
        return importlib.import_module("kr8s.asyncio")
    except ImportError:
        raise RuntimeFailure(
            "The library for Kubernetes is not installed.", 'Install it: pip install "tierdeck[kubernetes]"'
        ) from None


def _httpx() -> Any:
    return importlib.import_module("httpx")


def _failures() -> tuple[type[Exception], ...]:
    """What httpx and kr8s raise for broken connections and silent servers."""
    return (_httpx().HTTPError, _httpx().InvalidURL, importlib.import_module("kr8s").APITimeoutError, OSError)
