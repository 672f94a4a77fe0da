"""The contract of Docker's API as deployments use it: volumes, images, containers that are made, files and commands."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from backends.cluster.deploying import Spec
from backends.cluster.presets import body
from backends.cluster.tables import Node
from backends.errors import RuntimeFailure
from backends.reach.docker import DockerRuntime
from backends.reach.docker_store import DockerStore
from tests.contract.docker_parts import DockerPart, Dockers
from tests.contract.test_docker import message, raw, runtime_of

VOLUME, NAME, OTHER = "coder-models", "coder", "coder-before"


@dataclass(frozen=True)
class Site:
    """An engine, what a deployment does with it, and the image of its containers."""

    part: DockerPart
    store: DockerStore
    runtime: DockerRuntime
    image: str

    async def made(self, *, start: bool = False) -> str:
        """A container with a volume, as a deployment's helper is."""
        mount = {"Type": "volume", "Source": VOLUME, "Target": "/models"}
        told = {"Image": self.image, "Entrypoint": ["/bin/sh", "-c", "exec sleep 600"], "Cmd": []}
        id = await self.store.create(NAME, told | {"Labels": {"who": "us"}, "HostConfig": {"Mounts": [mount]}})
        if start:
            await self.store.start(id)
        return id

    async def raw(self, method: str, path: str, told: object = None) -> httpx.Response:
        return await raw(self.part.socket, method, path, told)

    async def says(self, method: str, path: str, told: object = None) -> tuple[int, str]:
        return await message(self.part.socket, method, path, told)


@asynccontextmanager
async def site(dockers: Dockers) -> AsyncGenerator[Site, None]:
    async with dockers.running() as part, runtime_of(part.socket) as runtime:
        shown = (await raw(part.socket, "GET", f"/containers/{part.plain}/json")).json()
        found = Site(part, DockerStore(runtime), runtime, shown["Config"]["Image"])
        try:
            yield found
        finally:
            for name in (NAME, OTHER):
                await found.store.remove(name)
            await found.store.remove_volume(VOLUME)


async def test_volumes(dockers: Dockers) -> None:
    async with site(dockers) as at:
        assert await at.store.volume(VOLUME) is None
        await at.store.create_volume(VOLUME, {"tierdeck.deployment": "t0ken"})
        await at.store.create_volume(VOLUME, {"tierdeck.deployment": "another"})
        found = await at.store.volume(VOLUME)
        assert found is not None
        assert (found["Name"], found["Driver"], found["Labels"]) == (VOLUME, "local", {"tierdeck.deployment": "t0ken"})
        assert found["Mountpoint"].endswith(f"/volumes/{VOLUME}/_data")
        assert await at.says("GET", "/volumes/nobody") == (404, "get nobody: no such volume")
        assert await at.says("DELETE", "/volumes/nobody") == (404, "get nobody: no such volume")
        id = await at.made()
        assert await at.says("DELETE", f"/volumes/{VOLUME}") == (409, f"remove {VOLUME}: volume is in use - [{id}]")
        with pytest.raises(RuntimeFailure) as caught:
            await at.store.remove_volume(VOLUME)
        assert caught.value.status == 409
        assert await at.store.holders(VOLUME) == [(id, "/models")]
        await at.store.remove(id)
        assert (await at.raw("DELETE", f"/volumes/{VOLUME}")).status_code == 204
        await at.store.remove_volume(VOLUME)


async def test_files_go_into_a_container_that_never_ran_and_come_out_again(dockers: Dockers) -> None:
    async with site(dockers) as at:
        id = await at.made()
        assert await at.store.size(id, "/models/a/b.gguf") is None
        await at.store.put(id, "/models", "a/b.gguf", b"GGUF" * 300, mode=0o600)
        assert await at.store.size(id, "/models/a/b.gguf") == 1200
        path = f"/containers/{id}/archive?path=/models/a/b.gguf"
        out = await at.raw("GET", path)
        assert (out.status_code, out.headers["content-type"]) == (200, "application/x-tar")
        with tarfile.open(fileobj=io.BytesIO(out.content)) as tar:
            (member,) = tar.getmembers()
            file = tar.extractfile(member)
            assert file is not None
            assert (member.name, member.mode & 0o777, file.read()) == ("b.gguf", 0o600, b"GGUF" * 300)
        head = await at.raw("HEAD", path)
        told = json.loads(base64.b64decode(head.headers["x-docker-container-path-stat"]))
        assert (head.status_code, told["name"], told["size"], told["linkTarget"]) == (200, "b.gguf", 1200, "")
        assert head.headers["x-docker-container-path-stat"] == out.headers["x-docker-container-path-stat"]
        missing = f"/containers/{id}/archive?path=/models/nothing"
        assert await at.says("GET", missing) == (404, f"Could not find the file /models/nothing in container {id}")
        assert ((await at.raw("HEAD", missing)).status_code, (await at.raw("HEAD", missing)).content) == (404, b"")
        with pytest.raises(RuntimeFailure) as caught:
            await at.store.put(id, "/models/no-such-folder", "x", b"")
        assert caught.value.status == 404
        assert await at.says("GET", "/containers/nobody/archive?path=/") == (404, "No such container: nobody")


async def test_what_is_made_is_what_was_told(dockers: Dockers) -> None:
    async with site(dockers) as at:
        spec = Spec.model_validate({
            "version": 1, "name": NAME, "node": "mark", "preset": "llama.cpp", "image": at.image, "port": 3014,
            "model": "/m/a.gguf", "context": 8192, "environment": {"LLAMA_LOG_COLORS": "0"}, "gpus": [0],
        })  # fmt: skip
        told = body(spec, Node(name="mark", address="10.0.0.2", gpus="nvidia"), "t0ken")
        id = await at.store.create(NAME, told)
        shown = await at.store.container(NAME)
        assert shown is not None
        assert (shown["Id"], shown["Name"], shown["State"]["Status"]) == (id, f"/{NAME}", "created")
        config, host = shown["Config"], shown["HostConfig"]
        assert config["Image"] == at.image
        assert config["Cmd"] == told["Cmd"]
        assert set(told["Labels"].items()) <= set(config["Labels"].items())
        assert set(told["Env"]) <= set(config["Env"])
        assert set(told["ExposedPorts"]) <= set(config["ExposedPorts"])
        assert config["Healthcheck"] == told["Healthcheck"]
        assert host["PortBindings"] == told["HostConfig"]["PortBindings"]
        assert host["RestartPolicy"]["Name"] == "no"
        (request,) = host["DeviceRequests"]
        assert (request["Driver"], request["DeviceIDs"], request["Capabilities"]) == ("", ["0"], [["gpu"]])
        (mount,) = host["Mounts"]
        assert (mount["Type"], mount["Source"], mount["Target"]) == ("volume", VOLUME, "/models")
        (seen,) = shown["Mounts"]
        assert (seen["Type"], seen["Name"], seen["Destination"], seen["RW"]) == ("volume", VOLUME, "/models", True)
        assert await at.store.volume(VOLUME) is not None, "a volume that was not there is made with it"


async def test_names(dockers: Dockers) -> None:
    async with site(dockers) as at:
        id = await at.made()
        with pytest.raises(RuntimeFailure) as caught:
            await at.made()
        assert caught.value.status == 409
        await at.runtime.rename(NAME, OTHER)
        assert await at.store.container(NAME) is None
        again = await at.made()
        assert again != id
        status, words = await at.says("POST", f"/containers/{again}/rename?name={OTHER}")
        assert status == 409
        taken = f'Conflict. The container name "/{OTHER}" is already in use by container "{id}"'
        assert words.startswith(f"Error when allocating new name: {taken}")
        assert await at.says("POST", "/containers/nobody/rename?name=x") == (404, "No such container: nobody")
        status, words = await at.says("POST", "/containers/create?name=a:b", {"Image": at.image})
        assert (status, words) == (400, "Invalid container name (a:b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        await at.store.remove(NAME)
        await at.store.remove(NAME)
        assert await at.store.container(NAME) is None


async def test_images(dockers: Dockers) -> None:
    async with site(dockers) as at:
        found = await at.store.image(at.image)
        assert found is not None
        assert found["Id"].startswith("sha256:")
        names = await at.store.images()
        assert found["RepoTags"][0] in names
        assert (await at.store.image(found["Id"]) or {})["Id"] == found["Id"]
        assert await at.store.image("tierdeck-lab/nothing") is None
        status, words = await at.says("GET", "/images/tierdeck-lab/nothing/json")
        assert status == 404
        assert words.lower().startswith("no such image: tierdeck-lab/nothing"), "a daemon of 2020 says more"
        status, words = await at.says("POST", "/containers/create?name=x1", {"Image": "tierdeck-lab/nothing"})
        assert (status, words) == (404, "No such image: tierdeck-lab/nothing:latest")
        assert (await at.says("DELETE", "/images/tierdeck-lab/nothing"))[0] == 404
        status, words = await at.says("DELETE", f"/images/{at.image}")
        assert status == 409
        assert "unable to" in words
        with pytest.raises(RuntimeFailure):
            async for _ in at.store.pull("127.0.0.1:1/nobody/has:this"):
                pass


async def test_commands(dockers: Dockers) -> None:
    async with site(dockers) as at:
        id = await at.made(start=True)
        done = await at.store.run(id, ["/bin/sh", "-c", 'echo "$1"; echo two >&2; exit 3', "sh", "one word"])
        assert (done.status, sorted(done.words.split("\n"))) == (3, ["", "one word", "two"])
        await at.store.put(id, "/models", "part", b"12345")
        done = await at.store.run(id, ["/bin/sh", "-c", 'wc -c < "$1"', "sh", "/models/part"])
        assert (done.status, done.words.strip()) == (0, "5")
        await at.store.restart(id)
        assert (await at.store.size(id, "/models/part")) == 5
        status, words = await at.says("POST", "/exec/nobody/start", {"Detach": False})
        assert (status, words) == (404, "No such exec instance: nobody")
        await at.raw("POST", f"/containers/{id}/kill")
        assert await at.store.wait(id) == 137
        status, words = await at.says("POST", f"/containers/{id}/exec", {"Cmd": ["true"]})
        assert (status, words.lower()) == (409, f"container {id} is not running")
