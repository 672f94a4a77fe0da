"""A Docker Engine on a unix socket: its containers, their logs, and what happens to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from backends.simulator import docker_shapes as shapes
from backends.simulator.containers import SimContainer, Spec
from backends.simulator.httpserver import HttpServer
from backends.simulator.physics import SimHost
from backends.simulator.world import World, rfc3339

_VERSIONED = re.compile(r"/v(\d+)\.(\d+)(/.*)")
_EVENTS_KEPT = 1000
Json = dict[str, Any]
Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class DockerFault(Exception):
    """An error in Docker's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SimDocker:
    """The engine of one node; it listens on `server`, faults of HTTP servers included. Use as an async context.

    `requests` counts by "METHOD /route" with ids replaced by {id}.
    """

    def __init__(self, world: World, host: SimHost, path: Path) -> None:
        self.world = world
        self.host = host
        self.containers: dict[str, SimContainer] = {}
        self.requests: Counter[str] = Counter()
        self.server = HttpServer(self._handle, path=path, name=f"docker of {host.name}")
        self.images: set[str] = set()
        self.volumes: set[str] = set()
        self._events: list[Json] = []
        self._followers: set[asyncio.Queue[Json]] = set()
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (method, re.compile(pattern), handler)
            for method, pattern, handler in (
                ("GET", r"/_ping", self._ping),
                ("HEAD", r"/_ping", self._ping),
                ("GET", r"/version", self._version),
                ("GET", r"/info", self._info),
                ("GET", r"/events", self._follow_events),
                ("GET", r"/containers/json", self._list),
                ("POST", r"/containers/create", self._create),
                ("GET", r"/containers/([^/]+)/json", self._inspect),
                ("POST", r"/containers/([^/]+)/start", self._start),
                ("POST", r"/containers/([^/]+)/stop", self._stop),
                ("POST", r"/containers/([^/]+)/restart", self._restart),
                ("POST", r"/containers/([^/]+)/kill", self._kill),
                ("POST", r"/containers/([^/]+)/wait", self._wait),
                ("POST", r"/containers/([^/]+)/update", self._update),
                ("GET", r"/containers/([^/]+)/logs", self._logs),
                ("GET", r"/containers/([^/]+)/stats", self._stats),
                ("PUT", r"/containers/([^/]+)/archive", self._put_archive),
                ("GET", r"/containers/([^/]+)/archive", self._get_archive),
                ("DELETE", r"/containers/([^/]+)", self._delete),
                ("GET", r"/images/json", self._images),
                ("GET", r"/images/(.+)/json", self._image),
                ("GET", r"/volumes", self._volumes),
                ("GET", r"/networks", self._networks),
            )
        ]

    async def __aenter__(self) -> SimDocker:
        await self.server.__aenter__()
        await self.server.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for container in tuple(self.containers.values()):
            await container.close()
        await self.server.__aexit__()

    def add(self, container: SimContainer) -> None:
        """One more container, with its image and volumes."""
        self.containers[container.name] = container
        self.images.add(container.spec.image)
        self.volumes |= {v for v in container.spec.volumes if not v.startswith("/")}

    def notify(self, container: SimContainer, action: str, more: Mapping[str, str]) -> None:
        """Something happened to a container."""
        attributes = {**container.spec.labels, **more, "image": container.spec.image, "name": container.name}
        event = shapes.event("container", action, container.id, attributes, time.time())
        self._events = [*self._events[-_EVENTS_KEPT:], event]
        for queue in self._followers:
            queue.put_nowait(event)

    def starting_with_the_engine(self) -> list[SimContainer]:
        """Those whose restart policy starts them when the engine does."""
        return [
            c
            for c in self.containers.values()
            if c.spec.restart == "always" or (c.spec.restart == "unless-stopped" and not c.stopped_by_hand)
        ]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            path = self._unversioned(request.path)
            for method, pattern, handler in self._routes:
                match = pattern.fullmatch(path) if method == request.method else None
                if match:
                    route = path if not match.groups() else path.replace(match[1], "{id}", 1)
                    self.requests[f"{method} {route}"] += 1
                    return await handler(request, match[1] if match.groups() else "")
            raise DockerFault(404, "page not found")
        except DockerFault as fault:
            return _json({"message": str(fault)}, fault.status)

    def _unversioned(self, path: str) -> str:
        match = _VERSIONED.fullmatch(path)
        if match is None:
            return path
        asked = (int(match[1]), int(match[2]))
        low, high = (tuple(map(int, v.split("."))) for v in (shapes.MIN_API_VERSION, shapes.API_VERSION))
        if asked < low:
            raise DockerFault(
                400,
                f"client version {match[1]}.{match[2]} is too old. Minimum supported API version is "
                f"{shapes.MIN_API_VERSION}, please upgrade your client to a newer version",
            )
        if asked > high:
            raise DockerFault(
                400,
                f"client version {match[1]}.{match[2]} is too new. Maximum supported API version is "
                f"{shapes.API_VERSION}",
            )
        return match[3]

    def _find(self, ident: str) -> SimContainer:
        by_name = self.containers.get(ident.removeprefix("/"))
        found = [by_name] if by_name else [c for c in self.containers.values() if c.id.startswith(ident)]
        if not found:
            raise DockerFault(404, f"No such container: {ident}")
        return found[0]

    async def _ping(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return web.Response(
            body=b"" if request.method == "HEAD" else b"OK",
            headers=_HEADERS | {"Content-Type": "text/plain; charset=utf-8", "Ostype": "linux"},
        )

    async def _version(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return _json(shapes.version())

    async def _info(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        containers = list(self.containers.values())
        return _json(shapes.info(self.host.name, containers, self.host.memory_mib, self.host.vendor == "nvidia"))

    async def _list(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        filters = _filters(request)
        everything = _true(request.query.get("all")) or "status" in filters
        chosen = [c for c in self.containers.values() if (everything or c.running) and _passes(c, filters)]
        newest_first = sorted(chosen, key=lambda c: c.created, reverse=True)
        return _json([shapes.listed(c) for c in newest_first])

    async def _inspect(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return _json(shapes.inspected(self._find(ident)))

    async def _start(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if container.running:
            return _empty(304)
        if container.error:
            raise DockerFault(500, container.error)
        if container.spec.gpu and self.host.vendor != "nvidia":
            raise DockerFault(500, 'could not select device driver "" with capabilities: [[gpu]]')
        if container.spec.gpu and self.host.nvml_error:
            raise DockerFault(
                500,
                "failed to create task for container: failed to create shim task: OCI runtime create failed: "
                "runc create failed: unable to start container process: error during container init: error "
                "running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'\n"
                "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch",
            )
        container.start()
        return _empty(204)

    async def _stop(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if not container.running:
            return _empty(304)
        await container.stop(_number(request.query.get("t")))
        return _empty(204)

    async def _restart(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if container.running:
            await container.stop(_number(request.query.get("t")))
        container.start()
        self.notify(container, "restart", {})
        return _empty(204)

    async def _kill(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if not container.running:
            raise DockerFault(409, f"cannot kill container: {ident}: container {container.id} is not running")
        await container.kill(request.query.get("signal", "SIGKILL").removeprefix("SIG"))
        return _empty(204)

    async def _wait(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return _json({"StatusCode": await self._find(ident).wait()})

    async def _update(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        policy = (await _body(request)).get("RestartPolicy") or {}
        if policy.get("Name"):
            container.spec.restart = policy["Name"]
            self.notify(container, "update", {})
        return _json({"Warnings": None})

    async def _create(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        body = await _body(request)
        name = request.query.get("name", "").removeprefix("/") or f"sim_{self.world.hex(8)}"
        if name in self.containers:
            other = self.containers[name].id
            raise DockerFault(
                409,
                f'Conflict. The container name "/{name}" is already in use by container "{other}". You have to '
                "remove (or rename) that container to be able to reuse that name.",
            )
        image = str(body.get("Image", ""))
        if image not in self.images and image not in {shapes.digest(i) for i in self.images}:
            raise DockerFault(404, f"No such image: {image}")
        host = body.get("HostConfig") or {}
        spec = Spec(
            name,
            image,
            gpu=bool(host.get("DeviceRequests")),
            restart=(host.get("RestartPolicy") or {}).get("Name") or "no",
            labels=dict(body.get("Labels") or {}),
            command=list(body.get("Cmd") or []),
            raw=body,
        )
        container = SimContainer(self.world, spec, None, self.notify)
        self.containers[name] = container
        self.notify(container, "create", {})
        return _json({"Id": container.id, "Warnings": []}, 201)

    async def _delete(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if container.running:
            if not _true(request.query.get("force")):
                raise DockerFault(
                    409,
                    f'cannot remove container "{container.name}": container is running: stop the container '
                    "before removing or force remove",
                )
            await container.kill()
        del self.containers[container.name]
        container.removed = True
        self.notify(container, "destroy", {})
        return _empty(204)

    async def _put_archive(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        container.files[request.query.get("path", "/")] = await request.read()
        return _empty(200)

    async def _get_archive(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container, path = self._find(ident), request.query.get("path", "/")
        if path not in container.files:
            message = f"Could not find the file {path} in container {container.name}"
            raise DockerFault(404, message)
        headers = _HEADERS | {"Content-Type": "application/x-tar"}
        return web.Response(body=container.files[path], headers=headers)

    async def _stats(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return _json(shapes.stats(self._find(ident), self.host.memory_mib))

    async def _images(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return _json([shapes.image(name) for name in sorted(self.images)])

    async def _image(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        for known in self.images:
            if name in (known, shapes.digest(known)):
                return _json(shapes.image(known))
        raise DockerFault(404, f"No such image: {name}")

    async def _volumes(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        volumes = [
            {
                "Name": name, "Driver": "local", "Mountpoint": f"/var/lib/docker/volumes/{name}/_data",
                "CreatedAt": "2026-10-02T08:08:15Z", "Labels": {}, "Scope": "local", "Options": {},
            }
            for name in sorted(self.volumes)
        ]  # fmt: skip
        return _json({"Volumes": volumes, "Warnings": None})

    async def _networks(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return _json([{"Name": "bridge", "Id": shapes.digest("bridge")[7:], "Driver": "bridge"}])

    async def _logs(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container, query = self._find(ident), request.query
        if not _true(query.get("stdout")) and not _true(query.get("stderr")):
            raise DockerFault(400, "Bad parameters: you must choose at least one stream")
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "application/vnd.docker.multiplexed-stream"})
        await response.prepare(request)
        since, stamped = _time(query.get("since")), _true(query.get("timestamps"))
        log, tail = container.log, query.get("tail", "all")
        at = 0 if not tail.isdigit() else max(0, len(log.lines) - int(tail))
        while True:
            for when, line in log.lines[at:]:
                if when >= since:
                    text = f"{rfc3339(when)} {line}" if stamped else line
                    await response.write(_frame(text + "\n"))
            at = len(log.lines)
            if not _true(query.get("follow")) or not log.open:
                return response
            await log.changed()

    async def _follow_events(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        filters, since = _filters(request), _time(request.query.get("since"))
        until = _time(request.query.get("until"))
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "application/json"})
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._followers.add(queue)
        try:
            past = [e for e in self._events if since and e["timeNano"] / 1e9 >= since]
            await response.prepare(request)
            await response.write(b"")
            for event in past:
                await _send(response, event, filters)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until - time.time()) if until else None):
                    while True:
                        await _send(response, await queue.get(), filters)
        finally:
            self._followers.discard(queue)
        return response


_HEADERS = {
    "Server": f"Docker/{shapes.VERSION} (linux)", "Api-Version": shapes.API_VERSION,
    "Docker-Experimental": "false",
}  # fmt: skip


def _json(data: object, status: int = 200) -> web.Response:
    body = json.dumps(data, separators=(",", ":")).encode() + b"\n"
    return web.Response(body=body, status=status, headers=_HEADERS | {"Content-Type": "application/json"})


def _empty(status: int) -> web.Response:
    return web.Response(status=status, headers=_HEADERS)


async def _body(request: web.BaseRequest) -> Json:
    try:
        data = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise DockerFault(400, f"invalid JSON: {error}") from None
    return data if isinstance(data, dict) else {}


async def _send(response: web.StreamResponse, event: Json, filters: dict[str, list[str]]) -> None:
    actor = event["Actor"]
    for key, values in filters.items():
        have = {
            "type": [event["Type"]],
            "event": [event["Action"]],
            "container": [actor["ID"], actor["Attributes"].get("name", "")],
            "label": [f"{k}={v}" for k, v in actor["Attributes"].items()] + list(actor["Attributes"]),
        }.get(key)
        if have is not None and not set(values) & set(have):
            return
    await response.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")


def _frame(text: str, stream: int = 1) -> bytes:
    data = text.encode()
    return struct.pack(">BxxxL", stream, len(data)) + data


def _filters(request: web.BaseRequest) -> dict[str, list[str]]:
    try:
        raw = json.loads(request.query.get("filters") or "{}")
    except ValueError:
        raise DockerFault(400, "invalid filter") from None
    return {key: list(values) for key, values in raw.items()}


def _passes(c: SimContainer, filters: dict[str, list[str]]) -> bool:
    have = {
        "name": [c.name],
        "id": [c.id],
        "status": [c.state],
        "label": [f"{k}={v}" for k, v in c.spec.labels.items()] + list(c.spec.labels),
    }
    for key, values in filters.items():
        if key == "name":
            if not any(re.search(value, c.name) or re.search(value, "/" + c.name) for value in values):
                return False
        elif key in have and not any(v == h or (key == "id" and h.startswith(v)) for v in values for h in have[key]):
            return False
    return True


def _true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true")


def _number(value: str | None) -> float | None:
    try:
        return float(value) if value else None
    except ValueError:
        raise DockerFault(400, f'strconv.Atoi: parsing "{value}": invalid syntax') from None


def _time(value: str | None) -> float:
    """Unix seconds, with a fraction or without; 0 where nothing is said."""
    return _number(value) or 0.0
