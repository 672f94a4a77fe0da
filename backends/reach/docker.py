"""Docker as a Runtime, over a unix socket: the node's own, or one that a bridge leads to it.

aiodocker is imported when Docker is first asked, in a thread: it costs 0.3 s.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from backends.cluster.reading import Device, Workload
from backends.errors import ReachError, RuntimeFailure, SshError
from backends.reach import docker_words
from backends.reach.docker_frames import Frames
from backends.reach.docker_twins import Twins
from backends.reach.runtime import RuntimeEvent
from backends.reach.streams import clean, split_lines

if TYPE_CHECKING:
    import aiohttp
    from aiodocker import Docker

_T = TypeVar("_T")

LIMIT: Final = 15.0
"""Seconds for an ordinary answer; more than an SSH connection may take, so that its fault is told, not ours."""

START_LIMIT: Final = 120.0
"""Seconds for a start: GPU hooks and slow disks take their time before Docker answers."""

FRESH: Final = 60.0
"""Seconds an inspected container is believed while its listed state stays the same."""

_AT_ONCE: Final = 3
"""Containers inspected side by side: through `dial-stdio` each takes one of the few SSH sessions of the node."""

_YOUNG: Final = 5.0
"""Seconds after its start for which a container is inspected at every look: it may be one that starts ever anew."""

_SLACK: Final = 1.5
"""Seconds by which the start may seem to move while it stays the same: Docker's list tells whole ones only."""

_UP_SECONDS = re.compile(r"Up (?:(\d+)|Less than a) seconds?\b")

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_ACTIONS = ["create", "start", "restart", "die", "stop", "kill", "oom", "pause", "unpause", "destroy", "rename"]
_FILTERS = json.dumps({"type": ["container"], "event": [*_ACTIONS, "health_status", "update"]})


@dataclass(frozen=True, slots=True)
class _Inspected:
    """A container as it was inspected: in which listed state, started when (None: a minute ago or longer)."""

    workload: Workload
    state: str
    started: float | None
    until: float

    def restarted(self, started: float | None, now: float) -> bool:
        """Whether one that was listed as `started` then may be another run of it than the one inspected."""
        if started is None:
            return False
        return self.started is None or started > self.started + _SLACK or now - started < _YOUNG


class DockerRuntime(Twins):
    """The containers of one node.

    `sockets` are tried in order, the first that exists is used; `why` says what is behind a broken connection,
    where the socket is the near end of a bridge.
    """

    kind = docker_words.KIND

    def __init__(
        self,
        node: str,
        sockets: Sequence[str],
        *,
        why: Callable[[], ReachError | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        limit: float = LIMIT,
    ) -> None:
        self._node = node
        self._sockets = tuple(sockets)
        self._why = why
        self._clock = clock
        self._limit = limit
        self._client: Docker | None = None
        self._socket = ""
        self._opening = asyncio.Lock()
        self._inspected: dict[str, _Inspected] = {}

    async def close(self) -> None:
        """Close all connections to Docker."""
        client, self._client = self._client, None
        if client:
            await client.close()

    async def version(self) -> str:
        """Docker's version, such as 28.2.2."""
        answer = await self._ask(lambda docker: docker.version())
        return str(answer.get("Version", "")) if isinstance(answer, dict) else ""

    async def workloads(self) -> tuple[Workload, ...]:
        """All containers, in Docker's order; one request where nothing changed since the last time."""
        listed = await self._ask(lambda docker: docker._query_json("containers/json", params={"all": 1}))
        listed = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        known = {str(item.get("Id", "")) for item in listed}
        self._inspected = {id: entry for id, entry in self._inspected.items() if id in known}
        gate = asyncio.Semaphore(_AT_ONCE)

        async def look(item: dict[str, Any]) -> Workload | None:
            async with gate:
                return await self._look(item)

        found = await asyncio.gather(*(look(item) for item in listed))
        return tuple(workload for workload in found if workload)

    async def devices(self) -> tuple[Device, ...]:
        """None: containers share GPUs as they please."""
        return ()

    async def state(self, name: str) -> Workload:
        """One container, freshly asked; `state` is "missing" where there is none of that name."""
        return await self._inspect(name) or Workload(name=name, runtime=self.kind, state="missing")

    async def start(self, name: str) -> None:
        """Start it; nothing happens where it runs already."""
        id = await self._id(name)
        await self._ask(lambda docker: docker.containers.container(id).start(), START_LIMIT)

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Stop it, by force after `grace` seconds; nothing happens where it is stopped already."""
        id, seconds = await self._id(name), math.ceil(grace)
        await self._ask(lambda docker: docker.containers.container(id).stop(t=seconds), seconds + 30.0)

    async def restart_policy(self, name: str) -> str:
        """Its restart policy, as the docker command writes it: no, always, unless-stopped, on-failure:3."""
        return docker_words.restart_policy(await self._details(name))

    async def update_restart(self, name: str, policy: str) -> None:
        """Give it another restart policy; nothing is started or stopped by that."""
        word, _, count = policy.partition(":")
        told = {"RestartPolicy": {"Name": word, "MaximumRetryCount": int(count or 0)}}
        path = f"containers/{await self._id(name)}/update"
        await self._ask(lambda docker: docker._query_json(path, "POST", data=told))
        self.forget()

    def forget(self) -> None:
        """Inspect every container anew at the next look."""
        self._inspected.clear()

    async def labels(self, name: str) -> dict[str, str]:
        """Its labels."""
        return docker_words.labels(await self._details(name))

    async def holders(self, volume: str) -> list[tuple[str, str]]:
        """The containers that have a volume, by id, and where each has it."""
        params: dict[str, str | int] = {"all": 1, "filters": json.dumps({"volume": [volume]})}
        listed = await self._ask(lambda docker: docker._query_json("containers/json", params=params))
        return docker_words.mounted(listed, volume)

    @asynccontextmanager
    async def archive(self, id: str, path: str) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """A file of a container, running or not, as a tar archive in pieces."""
        async with self._stream(f"containers/{id}/archive", {"path": path}) as response:
            yield self._pieces(response)

    async def packed(self, id: str, path: str, most: int) -> bytes | None:
        """A small file of a container as a tar archive; None where there is none, RuntimeFailure over `most` bytes."""
        found = bytearray()
        try:
            async with self.archive(id, path) as pieces:
                async for piece in pieces:
                    found += piece
                    if len(found) > most:
                        raise RuntimeFailure(f"{path} on {self._node} has more than {most} bytes.")
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            raise
        return bytes(found)

    async def unpack(self, id: str, folder: str, archive: bytes) -> None:
        """Put the files of a small tar archive into a folder of a container, running or not."""

        async def put(docker: Any) -> None:
            await docker.containers.container(id).put_archive(folder, archive)

        await self._ask(put)

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in response.content.iter_any():
                yield piece
        except _disconnections() as error:
            raise self._failure(error) from error

    async def _details(self, name: str) -> object:
        id = await self._id(name)
        return await self._ask(lambda docker: docker._query_json(f"containers/{id}/json"))

    @asynccontextmanager
    async def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AsyncGenerator[AsyncIterator[str], None]:
        """Its log lines, oldest first, freed of control sequences."""
        id = await self._id(name)
        details = await self._ask(lambda docker: docker._query_json(f"containers/{id}/json"))
        params = {"stdout": 1, "stderr": 1, "follow": int(follow), "tail": str(tail)}
        async with self._stream(f"containers/{id}/logs", params) as response:
            tty = docker_words.has_terminal(details)
            read = response.content.read if tty else Frames(response.content).read
            async with aclosing(self._lines(read)) as lines:
                yield lines

    @asynccontextmanager
    async def events(self, *, since: float | None = None) -> AsyncGenerator[AsyncIterator[RuntimeEvent], None]:
        """What happens to containers from now (or `since`) on; ends when the connection does."""
        params = {"filters": _FILTERS} | ({} if since is None else {"since": f"{since:.9f}"})
        async with self._stream("events", params) as response, aclosing(self._events(response)) as events:
            yield events

    async def _look(self, item: dict[str, Any]) -> Workload | None:
        """A listed container, asked about anew only where its state changed, or it has just been started."""
        id, status = str(item.get("Id", "")), str(item.get("Status", ""))
        health = re.search(r"\((?:health: )?(\w+)\)", status) if status.startswith("Up") else None
        state = f"{item.get('State')} {health[1] if health else ''}"
        now, up = self._clock(), _UP_SECONDS.match(status)
        started = now - float(up[1] or 0) if up else None
        seen = self._inspected.get(id)
        if seen and seen.state == state and now < seen.until and not seen.restarted(started, now):
            return seen.workload
        workload = await self._inspect(id)
        if workload:
            self._inspected[id] = _Inspected(workload, state, started, self._clock() + FRESH)
        return workload

    async def _inspect(self, name: str) -> Workload | None:
        """The container of exactly that name or id; None where there is none (Docker would take a part of an id)."""
        if not _NAME.fullmatch(name):
            return None
        try:
            details = await self._ask(lambda docker: docker._query_json(f"containers/{name}/json"))
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            raise
        workload = docker_words.workload(details)
        return workload if name in (workload.name, workload.id) else None

    async def _id(self, name: str) -> str:
        workload = await self._inspect(name)
        if workload is None:
            raise RuntimeFailure(
                f"There is no container {name} on {self._node}.", "Create it, or correct cluster.toml.", status=404
            )
        return workload.id

    async def _gpu(self, id: str) -> bool:
        if id not in self._inspected:
            workload = await self._inspect(id)
            return workload is not None and workload.gpu
        return self._inspected[id].workload.gpu

    async def _lines(self, read: Callable[[int], Awaitable[bytes]]) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(split_lines(read)) as lines:
                async for line in lines:
                    yield clean(line)
        except _disconnections() as error:
            raise self._failure(error) from error

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[RuntimeEvent, None]:
        try:
            async with aclosing(split_lines(response.content.read)) as lines:
                async for line in lines:
                    event = docker_words.event(_json(line))
                    if event:
                        yield RuntimeEvent(event.at, event.name, event.action, await self._gpu(event.id), event.id)
        except ReachError:
            return  # a container could not be asked about: the connection is gone, and so are its events
        except _disconnections():
            return

    @asynccontextmanager
    async def _stream(
        self, path: str, params: dict[str, Any], method: str = "GET"
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        response = await self._ask(lambda docker: docker._do_query(path, method, params=params))
        try:
            yield response
        finally:
            response.close()

    async def _ask(self, call: Callable[[Docker], Awaitable[_T]], limit: float | None = None) -> _T:
        docker = await self._docker()
        try:
            async with asyncio.timeout(limit or self._limit):
                return await call(docker)
        except TimeoutError as error:
            raise self._why() or RuntimeFailure(
                f"Docker on {self._node} did not answer within {limit or self._limit:g} s.",
                "Its daemon hangs, or the machine is overloaded.",
            ) from error
        except _failures() as error:
            docker.api_version = "auto"  # whoever answers next may be another Docker
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ReachError:
        status, message = getattr(error, "status", 900), str(getattr(error, "message", error))
        if status != 900:
            return docker_words.refusal(self._node, status, message)
        behind = self._why()
        if isinstance(behind, SshError | RuntimeFailure):
            return behind
        if behind:
            return docker_words.refusal(self._node, 0, behind.message)
        system = error if isinstance(error, OSError) else error.__context__
        return docker_words.no_answer(self._node, self._socket, system or error)

    async def _docker(self) -> Docker:
        async with self._opening:
            socket = _first_there(self._sockets)
            if self._client is None or socket != self._socket:
                await self.close()
                library = await asyncio.to_thread(importlib.import_module, "aiodocker")
                self._client, self._socket = library.Docker(url=f"unix://{socket}"), socket
            return self._client


def _first_there(paths: Sequence[str]) -> str:
    return next((path for path in paths if Path(path).exists()), paths[0])


def _disconnections() -> tuple[type[Exception], ...]:
    import aiohttp

    return (aiohttp.ClientError, OSError)


def _failures() -> tuple[type[Exception], ...]:
    """What aiodocker raises: refusals, broken connections, and whatever an answer that is no Docker's makes of it."""
    import aiodocker

    return (aiodocker.DockerError, *_disconnections(), ValueError, KeyError, TypeError)


def _json(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
