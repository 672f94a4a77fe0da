"""Makes a container anew with the settings of another, as far as Docker is asked for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from backends.reach import docker_twin

if TYPE_CHECKING:
    from aiodocker import Docker

_T = TypeVar("_T")


class Twins(ABC):
    """The part of a node's Docker by which a container is made anew."""

    @abstractmethod
    async def _ask(self, call: Callable[[Docker], Awaitable[_T]], limit: float | None = None) -> _T:
        """What Docker answers to `call`; ReachError where it does not."""

    @abstractmethod
    async def _id(self, name: str) -> str:
        """The id of a container."""

    @abstractmethod
    async def _details(self, name: str) -> object:
        """A container as Docker inspects it."""

    @abstractmethod
    def forget(self) -> None:
        """Inspect every container anew at the next look."""

    async def hindrance(self, name: str) -> str:
        """Why no faithful twin can be made of it, or ""."""
        return docker_twin.hindrance(await self._settings(name))

    async def create_twin(self, old: str, name: str) -> None:
        """Create a container with the settings of `old`, on the image that `old` has, volumes without a name, too."""
        details = await self._settings(old)
        tag = str(details["Config"]["Image"])
        known = await self._ask(lambda docker: docker._query_json(f"images/{details['Image']}/json"))
        image = tag if tag in (known.get("RepoTags") or ()) or ":" not in tag else str(details["Image"])
        body, params = docker_twin.body(details, image=image), {"name": name}
        await self._ask(lambda docker: docker._query_json("containers/create", "POST", params=params, data=body))
        for network, told in docker_twin.more_networks(details).items():
            joined = {"Container": name, "EndpointConfig": told}
            await self._ask(partial(_connect, network, joined))

    async def rename(self, name: str, new: str) -> None:
        """Give it another name."""
        id = await self._id(name)
        await self._ask(lambda docker: docker.containers.container(id).rename(new))
        self.forget()

    async def remove(self, name: str) -> None:
        """Remove it where it does not run, and none of its volumes."""
        id = await self._id(name)
        await self._ask(lambda docker: docker.containers.container(id).delete())

    async def written(self, name: str) -> list[str]:
        """Files that it wrote outside its volumes."""
        details = await self._settings(name)
        path = f"containers/{details['Id']}/changes"
        return docker_twin.written(await self._ask(lambda docker: docker._query_json(path)), details)

    async def _settings(self, name: str) -> dict[str, Any]:
        details = await self._details(name)
        assert isinstance(details, dict)  # it was inspected as one just now
        return details


async def _connect(network: str, joined: dict[str, Any], docker: Docker) -> None:
    await (await docker.networks.get(network)).connect(joined)
