"""A Docker Engine on a unix socket: its containers, their logs, and what happens to them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from backends.simulator import docker_shapes as shapes
from backends.simulator import docker_streams as streams
from backends.simulator.containers import SimContainer
from backends.simulator.docker_disk import SimDisk
from backends.simulator.docker_shelf import Shelf, tagged
from backends.simulator.docker_wire import (
    HEADERS,
    DockerFault,
    Filters,
    Json,
    answer,
    body_of,
    empty,
    filters_of,
    frame,
    number,
    true,
)
from backends.simulator.httpserver import HttpServer
from backends.simulator.physics import SimHost
from backends.simulator.program import Program
from backends.simulator.world import World

_VERSIONED = re.compile(r"/v(\d+)\.(\d+)(/.*)")
Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class SimDocker(Shelf):
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
        self.registry: set[str] = set()
        """The images that can be pulled."""
        self.disk = SimDisk(path.with_suffix(".disk"))
        self.launch: Callable[[Json, str], Program | None] = lambda body, name: None
        """What a container made over the API runs, from its body and name; nothing if nothing is said."""
        self.events = streams.EventLog()
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
                ("POST", r"/containers/([^/]+)/rename", self._rename),
                ("GET", r"/containers/([^/]+)/changes", self._changes),
                ("POST", r"/containers/([^/]+)/update", self._update),
                ("GET", r"/containers/([^/]+)/logs", self._logs),
                ("GET", r"/containers/([^/]+)/stats", self._stats),
                ("PUT", r"/containers/([^/]+)/archive", self._put_archive),
                ("GET", r"/containers/([^/]+)/archive", self._get_archive),
                ("HEAD", r"/containers/([^/]+)/archive", self._get_archive),
                ("DELETE", r"/containers/([^/]+)", self._delete),
                ("POST", r"/containers/([^/]+)/exec", self._exec),
                ("POST", r"/exec/([^/]+)/start", self._exec_start),
                ("GET", r"/exec/([^/]+)/json", self._exec_inspect),
                ("GET", r"/images/json", self._images),
                ("POST", r"/images/create", self._pull),
                ("GET", r"/images/(.+)/json", self._image),
                ("DELETE", r"/images/(.+)", self._remove_image),
                ("GET", r"/volumes", self._volumes),
                ("POST", r"/volumes/create", self._create_volume),
                ("GET", r"/volumes/([^/]+)", self._volume),
                ("DELETE", r"/volumes/([^/]+)", self._remove_volume),
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
            await container.unpublish()
        await self.server.__aexit__()

    def add(self, container: SimContainer) -> None:
        """One more container, with its image and volumes."""
        self.containers[container.name] = container
        self.images.add(container.spec.image)
        for volume in container.spec.volumes:
            if not volume.startswith("/"):
                self.disk.volumes.setdefault(volume, {})

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
            return answer({"message": str(fault)}, fault.status)

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
            headers=HEADERS | {"Content-Type": "text/plain; charset=utf-8"},
        )

    async def _version(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return answer(shapes.version())

    async def _info(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        containers = list(self.containers.values())
        return answer(shapes.info(self.host.name, containers, self.host.memory_mib, self.host.vendor == "nvidia"))

    async def _list(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        filters = filters_of(request)
        everything = true(request.query.get("all")) or "status" in filters
        chosen = [c for c in self.containers.values() if (everything or c.running) and _passes(c, filters)]
        newest_first = sorted(chosen, key=lambda c: c.created, reverse=True)
        return answer([shapes.listed(c) for c in newest_first])

    async def _inspect(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return answer(shapes.inspected(self._find(ident)))

    async def _start(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if container.running:
            return empty(304)
        if container.error:
            raise DockerFault(500, container.error)
        if taken := self._published(container):
            raise DockerFault(
                500,
                f"driver failed programming external connectivity on endpoint {container.name} ({container.id}): "
                f"Bind for 0.0.0.0:{taken} failed: port is already allocated",
            )
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
        if container.program is not None and (key := self.disk.read(container, "/etc/tierdeck/api_key")):
            container.program.engine.api_key = key
        container.start()
        return empty(204)

    def _published(self, container: SimContainer) -> int:
        """The port of a container that another holds; 0 where none does."""
        own = container.spec.published
        return own if own and any(c.running and c.spec.published == own for c in self.containers.values()) else 0

    async def _stop(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if not container.running:
            return empty(304)
        await container.stop(number(request.query.get("t")))
        return empty(204)

    async def _restart(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if container.running:
            await container.stop(number(request.query.get("t")))
        container.start()
        self.events.tell(container, "restart", {})
        return empty(204)

    async def _kill(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if not container.running:
            raise DockerFault(409, f"cannot kill container: {ident}: container {container.id} is not running")
        await container.kill(request.query.get("signal", "SIGKILL").removeprefix("SIG"))
        return empty(204)

    async def _wait(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return answer({"StatusCode": await self._find(ident).wait()})

    async def _update(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        policy = (await body_of(request)).get("RestartPolicy") or {}
        if policy.get("Name"):
            container.spec.restart = policy["Name"]
            self.events.tell(container, "update", {})
        return answer({"Warnings": None})

    async def _create(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        body = await body_of(request)
        name = request.query.get("name", "").removeprefix("/") or f"sim_{self.world.hex(8)}"
        self._refuse_taken(name)
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name):
            raise DockerFault(400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        image = str(body.get("Image", ""))
        if tagged(image) not in map(tagged, self.images) and image not in {shapes.digest(i) for i in self.images}:
            raise DockerFault(404, f"No such image: {tagged(image)}")
        spec = shapes.spec_of(name, body)
        for volume in spec.volumes:
            self.disk.volumes.setdefault(volume, {})
        container = SimContainer(self.world, spec, self.launch(body, name), self.events.tell)
        await container.publish()
        self.containers[name] = container
        self.events.tell(container, "create", {})
        return answer({"Id": container.id, "Warnings": []}, 201)

    def _refuse_taken(self, name: str, while_doing: str = "") -> None:
        if name in self.containers:
            other = self.containers[name].id
            raise DockerFault(
                409,
                f'{while_doing}Conflict. The container name "/{name}" is already in use by container "{other}". You '
                "have to remove (or rename) that container to be able to reuse that name.",
            )

    async def _rename(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container, name = self._find(ident), request.query.get("name", "").removeprefix("/")
        self._refuse_taken(name, "Error when allocating new name: ")
        del self.containers[container.name]
        container.spec.name = name
        self.containers[name] = container
        self.events.tell(container, "rename", {})
        return empty(204)

    async def _changes(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        self._find(ident)
        return answer(None)  # as Docker says that nothing was written

    async def _delete(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if container.running:
            if not true(request.query.get("force")):
                raise DockerFault(
                    409,
                    f'cannot remove container "/{container.name}": container is running: stop the container '
                    "before removing or force remove",
                )
            await container.kill()
        del self.containers[container.name]
        container.removed = True
        await container.unpublish()
        self.disk.forget(container)
        self.events.tell(container, "destroy", {})
        return empty(204)

    async def _put_archive(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        self.disk.put(self._find(ident), request.query.get("path", "/"), await request.content.read(), asked=ident)
        return empty(200)

    async def _get_archive(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        packed, stat = self.disk.get(self._find(ident), request.query.get("path", "/"), asked=ident)
        told = {"Content-Type": "application/x-tar", "X-Docker-Container-Path-Stat": stat}
        return web.Response(body=packed, headers=HEADERS | told)

    async def _exec(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        container = self._find(ident)
        if not container.running:
            raise DockerFault(409, f"Container {container.id} is not running")
        command = self.world.hex(32)
        self.disk.prepare(command, container, await body_of(request))
        return answer({"Id": command}, 201)

    async def _exec_start(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        written = await self.disk.run(ident)
        raw = {"Content-Type": "application/vnd.docker.raw-stream"}
        body = frame(written.decode(errors="replace")) if written else b""
        return web.Response(body=body, headers=HEADERS | raw)

    async def _exec_inspect(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return answer(self.disk.ended(ident))

    async def _stats(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return answer(shapes.stats(self._find(ident), self.host.memory_mib))

    async def _networks(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return answer([{"Name": "bridge", "Id": shapes.digest("bridge")[7:], "Driver": "bridge"}])

    async def _logs(self, request: web.BaseRequest, ident: str) -> web.StreamResponse:
        return await streams.logs(request, self._find(ident).log)

    async def _follow_events(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return await self.events.follow(request)


def _passes(c: SimContainer, filters: Filters) -> bool:
    """Whether a container is meant by all filters; names are patterns, ids beginnings."""
    labels = {f"{key}={value}" for key, value in c.spec.labels.items()} | set(c.spec.labels)
    meant = {
        "name": lambda value: bool(re.search(value, c.name) or re.search(value, "/" + c.name)),
        "id": c.id.startswith,
        "status": lambda value: value == c.state,
        "volume": lambda value: value in c.spec.volumes,
        "label": lambda value: value in labels,
    }
    return all(key not in meant or any(map(meant[key], values)) for key, values in filters.items())
