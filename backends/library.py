"""Where models are found: a name, a path or an address becomes a header, and nothing is loaded or started for it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Endpoint, Model
from backends.engines.http import Http
from backends.engines.ollama_models import CONTEXT, blob_address, is_registry_name, show
from backends.engines.target import Target
from backends.errors import ReachError, TierdeckError
from backends.memory.headers import (
    LOCAL_LIMIT,
    REMOTE_LIMIT,
    Header,
    HeaderError,
    Tensor,
    merged,
    part_names,
    read_gguf,
)
from backends.memory.safetensors import INDEX, header_of, json_object, read_safetensors, shards
from backends.reach.files import Read, opened
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from backends.sources import target_of

if TYPE_CHECKING:
    from collections.abc import Iterable

OLLAMA_HERE: Final = "http://127.0.0.1:11434"
"""Where Ollama listens if nothing is said."""

Opener = Callable[[str], Awaitable[AbstractAsyncContextManager[Read]]]


@dataclass(frozen=True, slots=True)
class Found:
    """A model's header, and what the inventory says of it; `context` 0 is what it was trained for.

    `file` is where it was found, "" at an Ollama.
    """

    header: Header
    context: int = 0
    gpu_layers: int | None = None
    safetensors: bool = False
    file: str = ""


class Library:
    """Finds headers; `inventory` is None where there is none, `node` narrows what is asked to one node."""

    def __init__(
        self, inventory: Inventory | None, here: str | None, reaches: Reaches | None, http: Http, node: str | None
    ) -> None:
        self._inventory, self._here, self._reaches, self._http, self._node = inventory, here, reaches, http, node

    async def find(self, name: str) -> Found:
        """The model of that name, path or address; TierdeckError where it cannot be read, naming it."""
        try:
            return await self._find(name)
        except HeaderError as error:
            raise HeaderError(f"{name}: {error.message}", error.advice) from None

    async def _find(self, name: str) -> Found:
        known = None if is_file(name) else next((model for model in self._models() if model.name == name), None)
        file = known.file if known else name
        if known or is_file(name):
            safe = file.endswith(".safetensors") or _is_folder(file)
            header = await (self._safetensors(file) if safe else self._file(file))
            return Found(header, known.context or 0 if known else 0, known.gpu_layers if known else None, safe, file)
        shown = await self._shown(name)
        if shown:
            return Found(shown, CONTEXT)
        if is_registry_name(name):
            return Found(await self._file(await blob_address(self._http, name)), CONTEXT)
        raise ReachError(
            f"{name} is no file, no model of the inventory and none of an Ollama here.",
            "What is not pulled yet can be named with its registry: HOST/NAMESPACE/MODEL:TAG.",
        )

    def _models(self) -> Iterable[Model]:
        return self._inventory.models if self._inventory else ()

    async def _shown(self, name: str) -> Header | None:
        silent: ReachError | None = None
        endpoints = [each for each in self._ollamas() if self._node in (None, each.node)]
        for endpoint in endpoints:
            try:
                if header := await show(self._http, await self._target(endpoint), name):
                    return header
            except ReachError as error:
                silent = error
        if not endpoints and not self._node:
            try:
                return await show(self._http, Target(OLLAMA_HERE, "ollama"), name)
            except ReachError:
                return None
        if silent and not is_registry_name(name):
            raise silent
        return None

    def _ollamas(self) -> list[Endpoint]:
        return [each for each in self._inventory.endpoints if each.engine == "ollama"] if self._inventory else []

    async def _target(self, endpoint: Endpoint) -> Target:
        assert self._inventory is not None
        assert self._reaches is not None
        return await target_of(endpoint, self._inventory, self._reaches, Secrets())

    async def _file(self, file: str) -> Header:
        """The header of a file with all its parts."""
        folder, name = _parted(file)
        limit = _limit(file)
        open_file = await self._opener(file)

        async def one(path: str) -> Header:
            async with await open_file(path) as read:
                return await read_gguf(read, limit)

        first = await one(file)
        if first.parts == 1:
            return first
        return merged([await one(folder + part) for part in part_names(name, first.parts)])

    async def _safetensors(self, file: str) -> Header:
        """The same of safetensors: one file, or the folder of a model; config.json must lie there."""
        folder = file.rstrip("/") + "/" if _is_folder(file) else _parted(file)[0]
        open_file = await self._opener(folder)

        async def whole(name: str) -> dict[str, Any]:
            async with await open_file(folder + name) as read:
                return json_object(await read(0, _limit(folder)))

        async def one(name: str) -> tuple[Tensor, ...]:
            async with await open_file(folder + name) as read:
                return await read_safetensors(read, _limit(folder))

        config, name = await whole("config.json"), _parted(file)[1]
        if not name.endswith(".safetensors"):
            name = _whole_or_index(folder)
        names = shards(await whole(INDEX)) if name == INDEX or "-of-" in name else [name]
        return header_of(config, tuple([tensor for each in names for tensor in await one(each)]))

    async def _opener(self, file: str) -> Opener:
        kind, _, rest = file.partition(":")
        if kind == "ssh" and not rest.startswith("//"):
            node, _, _ = rest.partition(":")
            reach = self._reach(node)

            async def by_ssh(path: str) -> AbstractAsyncContextManager[Read]:
                return reach.file(path.split(":", 2)[2])

            return by_ssh
        if kind == "volume":
            volume = rest.partition("/")[0]
            holder = await self._holder(volume)

            async def in_volume(path: str) -> AbstractAsyncContextManager[Read]:
                return await holder.volume(volume, path.partition("/")[2])

            return in_volume

        async def direct(path: str) -> AbstractAsyncContextManager[Read]:
            return opened(path)

        return direct

    async def _holder(self, volume: str) -> NodeReach:
        """The first node of which a container has the volume."""
        trouble: TierdeckError = ReachError(
            f"No node has a container with the volume {volume}.", "Name it with --node."
        )
        for node in self._inventory.nodes if self._inventory else ():
            if self._node not in (None, node.name) or node.docker is False:
                continue
            try:
                if await self._reach(node.name).has_volume(volume):
                    return self._reach(node.name)
            except ReachError as error:
                trouble = error
        raise trouble

    def _reach(self, node: str) -> NodeReach:
        if self._reaches is None or self._inventory is None or node not in self._inventory.node_named:
            raise ReachError(f"The inventory has no node {node!r}.")
        return self._reaches[node]


def _parted(file: str) -> tuple[str, str]:
    """A file's folder, as it is written before its name, and its name."""
    name = PurePosixPath(file).name
    return file[: len(file) - len(name)], name


def _limit(file: str) -> int:
    return REMOTE_LIMIT if file.startswith(("http://", "https://", "ssh:", "volume:")) else LOCAL_LIMIT


def _is_folder(file: str) -> bool:
    return Path(file).is_dir()


def _whole_or_index(folder: str) -> str:
    return "model.safetensors" if Path(folder, "model.safetensors").exists() else INDEX


def is_file(name: str) -> bool:
    """Whether a word is a path or an address rather than a model's name."""
    if name.startswith(("http://", "https://", "ssh:", "volume:", "/", "./", "../", "~")):
        return True
    return name.endswith((".gguf", ".safetensors")) or os.path.exists(name)


@asynccontextmanager
async def library(
    inventory: Inventory | None, here: str | None, node: str | None = None
) -> AsyncGenerator[Library, None]:
    """A library, with all it opens closed on leaving."""
    async with Http() as http:
        if inventory is None:
            yield Library(None, None, None, http, node)
            return
        async with Reaches(inventory, here, Secrets()) as reaches:
            yield Library(inventory, here, reaches, http, node)
