"""What a simulated engine keeps besides containers: images and volumes, as /images and /volumes tell of them."""

from __future__ import annotations

from aiohttp import web

from backends.simulator import docker_shapes as shapes
from backends.simulator.containers import SimContainer
from backends.simulator.docker_disk import SimDisk
from backends.simulator.docker_wire import HEADERS, DockerFault, answer, body_of, empty
from backends.simulator.world import World


def tagged(image: str) -> str:
    """An image's name with its tag."""
    return image if ":" in image else f"{image}:latest"


class Shelf:
    """The routes of images and volumes."""

    world: World
    containers: dict[str, SimContainer]
    images: set[str]
    registry: set[str]
    disk: SimDisk

    async def _images(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        return answer([shapes.image_listed(name) for name in sorted(self.images)])

    async def _image(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        for known in self.images:
            if tagged(name) == tagged(known) or name in (known, shapes.digest(known)):
                return answer(shapes.image_inspected(known))
        raise DockerFault(404, f"No such image: {tagged(name)}")

    async def _pull(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        name = tagged(f"{request.query.get('fromImage')}:{request.query.get('tag', 'latest')}")
        if name not in map(tagged, self.registry):
            repository = name.rpartition(":")[0]
            raise DockerFault(
                404,
                f"pull access denied for {repository}, repository does not exist or may require 'docker login': "
                "denied: requested access to the resource is denied",
            )
        self.images.add(name)
        lines = shapes.pulled(name)
        return web.Response(body=b"".join(lines), headers=HEADERS | {"Content-Type": "application/json"})

    async def _remove_image(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        known = next((each for each in self.images if tagged(each) == tagged(name)), None)
        if known is None:
            raise DockerFault(404, f"No such image: {tagged(name)}")
        user = next((c for c in self.containers.values() if tagged(c.spec.image) == tagged(name)), None)
        if user is not None:
            raise DockerFault(
                409,
                f'conflict: unable to remove repository reference "{name}" (must force) - container {user.id[:12]} is '
                "using its referenced image",
            )
        self.images.discard(known)
        return answer([{"Untagged": tagged(name)}])

    async def _volumes(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        volumes = [shapes.volume(name, labels) for name, labels in sorted(self.disk.volumes.items())]
        return answer({"Volumes": volumes, "Warnings": None})

    async def _volume(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        if name not in self.disk.volumes:
            raise DockerFault(404, f"get {name}: no such volume")
        return answer(shapes.volume(name, self.disk.volumes[name]))

    async def _create_volume(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        body = await body_of(request)
        name = str(body.get("Name") or self.world.hex(32))
        self.disk.volumes.setdefault(name, dict(body.get("Labels") or {}))
        return answer(shapes.volume(name, self.disk.volumes[name]), 201)

    async def _remove_volume(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        if name not in self.disk.volumes:
            raise DockerFault(404, f"get {name}: no such volume")
        users = [c.id for c in self.containers.values() if name in c.spec.volumes]
        if users:
            raise DockerFault(409, f"remove {name}: volume is in use - [{', '.join(users)}]")
        self.disk.remove_volume(name)
        return empty(204)
