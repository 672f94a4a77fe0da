"""What a deployment does with a node's Docker: images, volumes, new containers, files in them, commands in them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tarfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from backends.errors import RuntimeFailure
from backends.reach.docker import DockerRuntime
from backends.reach.docker_frames import Frames
from backends.reach.runtime import Runtime
from backends.reach.streams import first_words, split_lines

_T = TypeVar("_T")
Json = dict[str, Any]

PUT_LIMIT: Final = 600.0
"""Seconds that one archive of bounded size may take; a line that carries less than 100 KB/s is too slow for models."""

RUN_LIMIT: Final = 60.0
"""Seconds for a command in a container, if nothing else is said."""

_MOST_WORDS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended in a container: its exit code and the beginning of what it wrote."""

    status: int
    words: str


class DockerStore:
    """The Docker of one node, beyond what every runtime can; RuntimeFailure where its runtime is another."""

    def __init__(self, runtime: Runtime) -> None:
        if not isinstance(runtime, DockerRuntime):
            raise RuntimeFailure("Only Docker can be deployed to.", "Choose a node with Docker.")
        self._runtime = runtime

    # -- images ----------------------------------------------------------------------------------------------------

    async def image(self, name: str) -> Json | None:
        """An image that is there."""
        return await self._found(f"images/{name}/json")

    async def images(self) -> list[str]:
        """The names of all images that have one."""
        listed = await self._ask(lambda docker: docker._query_json("images/json"))
        return sorted(tag for each in listed for tag in each.get("RepoTags") or () if tag != "<none>:<none>")

    async def pull(self, name: str) -> AsyncGenerator[tuple[str, float | None], None]:
        """Have an image fetched: words, and the share of its layers' bytes that came, as it goes on."""
        repository, tag = image_parts(name)
        params = {"fromImage": repository, "tag": tag} if tag else {"fromImage": repository}
        layers: dict[str, tuple[int, int]] = {}
        async with (
            self._runtime._stream("images/create", params, "POST") as response,
            aclosing(split_lines(response.content.read)) as lines,
        ):
            async for line in lines:
                said = _object(line)
                if said.get("error"):
                    raise RuntimeFailure(f"The image {name} cannot be had: {first_words(str(said['error']))}")
                detail = said.get("progressDetail") or {}
                if detail.get("total"):
                    layers[str(said.get("id"))] = (int(detail.get("current") or 0), int(detail["total"]))
                whole = sum(total for _, total in layers.values())
                share = sum(came for came, _ in layers.values()) / whole if whole else None
                yield str(said.get("status") or ""), share

    async def remove_image(self, name: str) -> None:
        """Remove an image that no container uses."""
        await self._ask(lambda docker: docker._query_json(f"images/{name}", "DELETE"))

    async def info(self) -> Json:
        """What the engine says of itself."""
        found = await self._ask(lambda docker: docker._query_json("info"))
        return found if isinstance(found, dict) else {}

    # -- volumes ---------------------------------------------------------------------------------------------------

    async def volume(self, name: str) -> Json | None:
        """A volume."""
        return await self._found(f"volumes/{name}")

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a volume; one of that name that is there already stays as it is."""
        told = {"Name": name, "Labels": dict(labels)}
        await self._ask(lambda docker: docker._query_json("volumes/create", "POST", data=told))

    async def remove_volume(self, name: str) -> None:
        """Remove a volume and all that is in it; nothing happens where there is none."""
        await self._gone(f"volumes/{name}", {})

    async def holders(self, volume: str) -> list[tuple[str, str]]:
        """The containers that have a volume, by id, and where each has it."""
        return await self._runtime.holders(volume)

    # -- containers ------------------------------------------------------------------------------------------------

    async def container(self, name: str) -> Json | None:
        """A container, as Docker inspects it."""
        return await self._found(f"containers/{name}/json")

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container and return its id; RuntimeFailure with status 409 where the name is taken."""
        told, params = dict(body), {"name": name}
        path = "containers/create"
        made = await self._ask(lambda docker: docker._query_json(path, "POST", params=params, data=told))
        self._runtime.forget()
        return str(made["Id"])

    async def start(self, id: str) -> None:
        """Start a container past any queue: one without a GPU."""
        await self._ask(lambda docker: docker.containers.container(id).start(), RUN_LIMIT)

    async def restart(self, id: str) -> None:
        """End whatever runs in it at once, and start it anew."""
        await self._ask(lambda docker: docker.containers.container(id).restart(timeout=0), RUN_LIMIT)

    async def wait(self, id: str) -> int:
        """Until it has ended; its exit code."""
        ended = await self._ask(lambda docker: docker._query_json(f"containers/{id}/wait", "POST"), RUN_LIMIT)
        return int(ended["StatusCode"])

    async def remove(self, id: str) -> None:
        """Remove a container, running or not; nothing happens where there is none."""
        await self._gone(f"containers/{id}", {"force": "1"})
        self._runtime.forget()

    # -- files and commands in them --------------------------------------------------------------------------------

    async def size(self, id: str, path: str) -> int | None:
        """Bytes of a file of a container, running or not; None where there is none.

        Asked by a GET that is closed at once: a HEAD that finds nothing says so without words, which nobody can read.
        """
        params = {"path": path}

        async def look(docker: Any) -> str:
            answer = await docker._do_query(f"containers/{id}/archive", "GET", params=params)
            answer.close()
            return str(answer.headers.get("X-Docker-Container-Path-Stat", ""))

        try:
            stat = _object(base64.b64decode(await self._ask(look)).decode())
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            raise
        return int(stat["size"]) if "size" in stat else None

    async def put(self, id: str, folder: str, name: str, data: bytes, *, mode: int = 0o644, owner: int = 0) -> None:
        """Put a file into a folder of a container, running or not; folders in `name` are made where missing."""
        packed = await asyncio.to_thread(_archive, name, data, mode, owner)
        params, headers = {"path": folder}, {"Content-Type": "application/x-tar"}
        path = f"containers/{id}/archive"

        async def send(docker: Any) -> None:
            (await docker._do_query(path, "PUT", params=params, data=packed, headers=headers)).close()

        await self._ask(send, PUT_LIMIT)

    async def run(self, id: str, argv: Sequence[str], *, limit: float = RUN_LIMIT) -> Done:
        """Run a command in a container that runs; nothing is given to it."""
        told = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(argv)}
        made = await self._ask(lambda docker: docker._query_json(f"containers/{id}/exec", "POST", data=told))
        exec = f"exec/{made['Id']}"

        async def begin(docker: Any) -> str:
            how = json.dumps({"Detach": False, "Tty": False})
            answer = await docker._do_query(f"{exec}/start", "POST", data=how)
            try:
                return await _read(answer)
            finally:
                answer.close()

        words = await self._ask(begin, limit)
        ended = await self._ask(lambda docker: docker._query_json(f"{exec}/json"))
        return Done(int(ended.get("ExitCode") or 0), words)

    # -- small things ----------------------------------------------------------------------------------------------

    async def _ask(self, call: Callable[[Any], Awaitable[_T]], limit: float | None = None) -> _T:
        return await self._runtime._ask(call, limit)

    async def _found(self, path: str) -> Json | None:
        try:
            found = await self._ask(lambda docker: docker._query_json(path))
        except RuntimeFailure as failure:
            if failure.status == 404:
                return None
            raise
        return found if isinstance(found, dict) else None

    async def _gone(self, path: str, params: Mapping[str, str]) -> None:
        async def delete(docker: Any) -> None:
            (await docker._do_query(path, "DELETE", params=dict(params))).close()

        try:
            await self._ask(delete, RUN_LIMIT)
        except RuntimeFailure as failure:
            if failure.status != 404:
                raise


def image_parts(name: str) -> tuple[str, str]:
    """An image's repository and its tag or digest; the tag is "latest" where nothing is said."""
    if "@" in name:
        return name, ""
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def _archive(name: str, data: bytes, mode: int, owner: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folder = tarfile.TarInfo("/".join(parts[:depth]))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.uid, member.gid = len(data), mode, owner, owner
        tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


async def _read(answer: Any) -> str:
    frames, found = Frames(answer.content), bytearray()
    while piece := await frames.read(_MOST_WORDS):
        found += piece[: max(0, _MOST_WORDS - len(found))]
    return found.decode(errors="replace")


def _object(text: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
