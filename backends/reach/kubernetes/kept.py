"""Objects of one kind, listed once and then watched: a dropped watch goes on from its resource version.

Where that version is gone (410), the list is read again. What the API says in between is never missed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final, Generic, TypeVar

from backends.errors import ReachError, RuntimeFailure
from backends.reach.kubernetes import refusals
from backends.reach.kubernetes.api import KubernetesApi
from backends.text import plain

TURN: Final = 30
"""Seconds after which the API ends a watch, and it is opened anew from where it was."""

SILENCE: Final = TURN + 15.0
"""Seconds without a word after which the connection is taken for dead."""

GONE: Final = 410

_LONGEST: Final = 30.0
_SHORTEST: Final = 0.25

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """All objects at a path of the API that `keep` makes something of, by NAMESPACE/NAME."""

    def __init__(self, api: KubernetesApi, path: str, keep: Callable[[Mapping[str, Any]], _T | None]) -> None:
        self.objects: dict[str, _T] = {}
        self.trouble: ReachError | None = None
        self.lists = 0
        """How often the whole list was read."""
        self._api = api
        self._path = path
        self._keep = keep
        self._version = ""
        self._told = asyncio.Event()

    async def told(self) -> None:
        """Wait until it is known what there is, or why that cannot be known."""
        await self._told.wait()

    async def run(self) -> None:
        """List and watch until cancelled."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self._list()
                    self._settle(None)
                await self._watch()
                failures = 0
            except ReachError as error:
                failures += 1
                if isinstance(error, RuntimeFailure) and error.status == GONE:
                    self._version = ""
                    failures = 0
                elif failures > 1 or not self._version:  # the first may be no more than a connection that was cut
                    self._settle(error)
            await asyncio.sleep(min(_LONGEST, _SHORTEST * 2.0 ** min(failures, 8)))

    def _settle(self, trouble: ReachError | None) -> None:
        self.trouble = trouble
        self._told.set()

    async def _list(self) -> None:
        found: dict[str, _T] = {}
        version = ""
        async with aclosing(self._api.pages(self._path)) as pages:
            async for page in pages:
                with self._readable(page):
                    version = str((page.get("metadata") or {}).get("resourceVersion") or "")
                    for item in page.get("items") or ():
                        self._put(found, item)
                await asyncio.sleep(0)  # a long list is taken in between key presses
        self.lists += 1
        self.objects, self._version = found, version

    async def _watch(self) -> None:
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": TURN}
        params |= {"resourceVersion": self._version}
        async with self._api.lines(self._path, params, silence=SILENCE) as lines, aclosing(lines):
            self._settle(None)
            async for line in lines:
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            event = json.loads(line)
            kind, item = str(event["type"]), dict(event["object"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # the end of a connection that was cut in mid-word; the next watch tells it again
        with self._readable(item):
            if kind == "ERROR":
                raise refusals.refusal(self._api.name, int(item.get("code") or 500), item)
            if kind == "DELETED":
                self.objects.pop(_key(item), None)
            elif kind in ("ADDED", "MODIFIED"):
                self._put(self.objects, item)
            self._version = str((item.get("metadata") or {}).get("resourceVersion") or self._version)

    def _put(self, objects: dict[str, _T], item: Mapping[str, Any]) -> None:
        with self._readable(item):
            kept = self._keep(item)
            if kept is None:
                objects.pop(_key(item), None)
            else:
                objects[_key(item)] = kept

    @contextmanager
    def _readable(self, what: object) -> Iterator[None]:
        """Say of what is not as the API's documents have it that it cannot be read, whatever was odd in it."""
        try:
            yield
        except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
            raise RuntimeFailure(
                f"{self._api.name}: what its API says of {_named(what)} cannot be read.", "Is it a Kubernetes API?"
            ) from error


def _key(item: Mapping[str, Any]) -> str:
    meta = item.get("metadata") or {}
    return f"{meta.get('namespace', '')}/{meta.get('name', '')}"


def _named(what: object) -> str:
    """An object by its name, as far as it has one."""
    meta = what.get("metadata") if isinstance(what, Mapping) else None
    return plain(_key({"metadata": meta}), 200) if isinstance(meta, Mapping) and "name" in meta else "its objects"
