"""A lease as a container, where no file can be: created from an image that is there, and never started."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from email.utils import parsedate_to_datetime
from typing import Any, Final

from backends.errors import RuntimeFailure
from backends.reach import docker_words
from backends.reach.docker import DockerRuntime
from backends.reach.lease import Holder, NoPlace, Seen, holder_of
from backends.reach.nodes import NodeReach

NAME: Final = "tierdeck-lock"
"""The container that is the lease."""


class ContainerPlace:
    """A lease as a container: of all who create it, Docker lets one, and each has an id of its own."""

    def __init__(self, reach: NodeReach) -> None:
        self._reach = reach

    @property
    def where(self) -> str:
        """The place, for people."""
        return f"the container {NAME} on {self._reach.node.name}"

    async def look(self) -> Seen | None:
        """Who holds it; a file put into it changes the time of its root folder, which is the sign of life."""
        found = await self._inspect()
        if found is None:
            return None
        path = f"containers/{found['Id']}/archive"
        answer = await self._ask(lambda docker: docker._do_query(path, "HEAD", params={"path": "/"}))
        now, beat = _times(answer.headers)
        since = docker_words.timestamp(found.get("Created")) or beat
        return Seen(self._holder(found), max(0.0, now - since), max(0.0, now - beat))

    async def create(self, holder: Holder) -> bool:
        """Take it, unless somebody has."""
        images = await self._ask(lambda docker: docker._query_json("images/json"))
        if not images:
            raise NoPlace(f"{self._reach.node.name} has no image to make a lease of.")
        labels = {f"tierdeck.{key}": value for key, value in asdict(holder).items()}
        config = {"Image": images[0]["Id"], "Cmd": ["true"], "Labels": labels, "NetworkDisabled": True}
        try:
            await self._ask(lambda docker: docker.containers.create(config, name=NAME))
        except RuntimeFailure as failure:
            if failure.status == 409:
                return False
            raise
        return True

    async def token(self) -> str | None:
        """Whose it is."""
        found = await self._inspect()
        return None if found is None else self._holder(found).token

    async def beat(self, token: str) -> bool:
        """Give a sign of life."""
        id = await self._id(token)
        if id:
            await self._ask(lambda docker: docker.containers.container(id).put_archive("/", _archive()))
        return bool(id)

    async def clear(self, token: str) -> bool:
        """End the lease, by the id of its container."""
        id = await self._id(token)
        try:
            if id:
                await self._ask(lambda docker: docker.containers.container(id).delete(force=True))
        except RuntimeFailure as failure:
            if failure.status in (404, 409):  # somebody else has ended it, or just does
                return False
            raise
        return bool(id)

    async def _id(self, token: str) -> str:
        found = await self._inspect()
        return str(found["Id"]) if found is not None and self._holder(found).token == token else ""

    async def _inspect(self) -> dict[str, Any] | None:
        try:
            found = await self._ask(lambda docker: docker._query_json(f"containers/{NAME}/json"))
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            raise
        return found if isinstance(found, dict) else None

    def _holder(self, found: dict[str, Any]) -> Holder:
        labels = (found.get("Config") or {}).get("Labels") or {}
        return holder_of({key.removeprefix("tierdeck."): word for key, word in labels.items()}, self._reach.node.name)

    async def _ask(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        runtime = await self._reach.runtime()
        if not isinstance(runtime, DockerRuntime):
            raise NoPlace(f"{self._reach.node.name} has no Docker.")
        return await runtime._ask(call)


def _times(headers: Any) -> tuple[float, float]:
    """The node's time, and that of the last change of a folder, from Docker's answer about it."""
    try:
        status = json.loads(base64.b64decode(headers["X-Docker-Container-Path-Stat"]))
        changed = docker_words.timestamp(status["mtime"])
        now = parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError) as error:
        raise RuntimeFailure("Docker does not say how old a lease is.") from error
    return now, now if changed is None else changed


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("tierdeck-lock"))
    return packed.getvalue()
