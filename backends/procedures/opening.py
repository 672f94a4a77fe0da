"""The real outside of a procedure: nodes over SSH or here, engines over HTTP, GPUs by their drivers."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from pydantic import SecretStr

from backends.clock import Clock, SystemClock
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Gpu, ProbeResult, Workload
from backends.cluster.tables import Endpoint
from backends.engines import asking, loading, ollama_library
from backends.engines.chat import Delta, Message, chat
from backends.engines.http import Http
from backends.engines.registry import ENGINES
from backends.engines.target import ProbeFailure, Target
from backends.errors import ReachError
from backends.gpus import nvidia
from backends.gpus.source import read_once
from backends.maintenance import Maintenance
from backends.procedures import leasing
from backends.procedures.context import Context
from backends.procedures.touching import Touching
from backends.reach.local import addresses, hostname, which_node
from backends.reach.model_files import ModelFiles, model_files
from backends.reach.reaches import Reaches
from backends.reach.runtime import Runtime
from backends.secrets import Secrets
from backends.sources import EndpointSource, target_of

VRAM_LIMIT: Final = 5.0
"""Seconds for one look at the GPU memory; the gate wants four in a second."""

MOST_TOKENS: Final = 16
"""Tokens of an answer that is only to show that there is one."""


@asynccontextmanager
async def open_context(
    inventory: Inventory, state: Path | None = None, given: Mapping[str, SecretStr] | None = None
) -> AsyncGenerator[Context, None]:
    """The outside of `inventory`, connected to as it is needed and closed on leaving; `state` is our directory.

    `given` are variables for `env:` references that are not in the environment.
    """
    here = which_node(inventory, hostname(), addresses())
    secrets, clock = Secrets(given=given), SystemClock()
    async with Http() as http, Reaches(inventory, here, secrets) as reaches:
        outside = _Outside(inventory, http, reaches, secrets, clock)
        yield Context(
            inventory,
            clock,
            outside.runtime,
            outside.workloads,
            outside.probe,
            outside.vram,
            shares=outside.shares,
            files=outside.files,
            ask=outside.ask,
            pull=outside.pull,
            create=outside.create,
            forget=outside.forget,
            listed=outside.listed,
            prompt=outside.prompt,
            here=here,
            touch=Touching(inventory, reaches, secrets, state / "rdp") if state else None,
            maintenance=Maintenance(state) if state else None,
            shell=lambda node: reaches[node].shell,
            places=lambda node: leasing.places(reaches, inventory, node),
            away=lambda node: leasing.away(reaches, inventory, node),
        )


@dataclass(slots=True)
class _Outside:
    inventory: Inventory
    http: Http
    reaches: Reaches
    secrets: Secrets
    clock: Clock
    sources: dict[str, EndpointSource] = field(default_factory=dict)

    async def runtime(self, node: str, kind: str) -> Runtime:
        """What drives the workloads of one kind on a node."""
        return await self.reaches[node].runtime_of(kind)

    async def workloads(self, node: str) -> tuple[Workload, ...]:
        """All that runs on a node, of every kind it has."""
        found: list[Workload] = []
        for runtime in await self.reaches[node].runtimes():
            found += await runtime.workloads()
        return tuple(found)

    async def probe(self, endpoint: str) -> ProbeResult:
        """One probe, with all its engine says."""
        if endpoint not in self.sources:
            named = self.inventory.endpoint_named[endpoint]
            engine = ENGINES[named.engine]
            self.sources[endpoint] = EndpointSource(
                named, self.inventory, engine, self.http, self.target, self.clock, Random()
            )
        readings, _ = await self.sources[endpoint].read()
        (reading,) = readings
        assert isinstance(reading, EndpointReading)
        return reading.result

    async def shares(self, endpoint: str) -> AsyncGenerator[float, None]:
        """How far an engine says it has loaded its model."""
        target = await self.target(self.inventory.endpoint_named[endpoint])
        async with aclosing(loading.shares(self.http, target)) as shares:
            async for share in shares:
                yield share

    @asynccontextmanager
    async def files(self, source: str, token: str | None) -> AsyncGenerator[ModelFiles, None]:
        """The files of a model, wherever they lie."""
        secret = await self.secrets.resolve(token, polling=False) if token else None
        yield model_files(source, self.reaches, secret, os.environ)

    async def ask(self, endpoint: str, prompt: str) -> str:
        """The beginning of an endpoint's answer to one prompt."""
        named = self.inventory.endpoint_named[endpoint]
        words, target = "", await self.target(named)
        answer = chat(self.http, target, [Message("user", prompt)], model=named.model, max_tokens=MOST_TOKENS)
        async with aclosing(answer) as events:
            async for event in events:
                words += event.text if isinstance(event, Delta) else ""
        return words

    async def listed(self, endpoint: str) -> tuple[str, ...]:
        """The models that an endpoint names now."""
        return await asking.listed(self.http, await self.target(self.inventory.endpoint_named[endpoint]))

    async def prompt(self, endpoint: str, model: str, embeds: bool) -> str:
        """Ask a model once; why it did not answer, or ""."""
        target = await self.target(self.inventory.endpoint_named[endpoint])
        return await asking.answered(self.http, target, model, embeds=embeds)

    async def pull(self, endpoint: str, model: str) -> ollama_library.Said:
        """Have an Ollama fetch a model."""
        target = await self.target(self.inventory.endpoint_named[endpoint])
        return _relayed(ollama_library.pull(self.http, target, model), f"{endpoint} does not pull {model}")

    async def create(self, endpoint: str, model: str, files: Mapping[str, str]) -> ollama_library.Said:
        """Have an Ollama make a model of blobs that it has."""
        target = await self.target(self.inventory.endpoint_named[endpoint])
        return _relayed(ollama_library.create(self.http, target, model, files), f"{endpoint} does not create {model}")

    async def forget(self, endpoint: str, model: str) -> bool:
        """Have an Ollama delete a model."""
        target = await self.target(self.inventory.endpoint_named[endpoint])
        try:
            return await ollama_library.forget(self.http, target, model)
        except ProbeFailure as failure:
            raise _unanswered(f"{endpoint} does not delete {model}", failure) from None

    async def target(self, endpoint: Endpoint) -> Target:
        """An endpoint as it is asked from here."""
        return await target_of(endpoint, self.inventory, self.reaches, self.secrets)

    async def vram(self, node: str) -> tuple[Gpu, ...] | None:
        """The GPUs of a node, without what runs on them; None where they cannot be read."""
        named = self.inventory.node_named[node]
        if named.gpus == "none":
            return None
        try:
            shell = self.reaches[node].shell
            if named.gpus != "nvidia":
                return await read_once(named, shell, VRAM_LIMIT)
            done = await shell.run(nvidia.QUERY, timeout=VRAM_LIMIT)
            return nvidia.parse(done.stdout) if done.status == 0 else None
        except (ReachError, TimeoutError):
            return None


async def _relayed(said: ollama_library.Said, failed: str) -> ollama_library.Said:
    """The same, with a ReachError that begins as `failed` where it breaks off."""
    try:
        async with aclosing(said) as lines:
            async for words, share in lines:
                yield words, share
    except ProbeFailure as failure:
        raise _unanswered(failed, failure) from None


def _unanswered(failed: str, failure: ProbeFailure) -> ReachError:
    return ReachError(f"{failed}: {failure.cause.value} {failure.evidence}")
