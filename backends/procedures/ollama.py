"""The step of a deployment that gives a fresh Ollama its model: pulled by itself, or made of the file in its volume."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from backends.cluster.presets import MADE_BY, OLLAMA_MODELS
from backends.engines.ollama_library import Said
from backends.errors import ProcedureError, ReachError
from backends.procedures.context import Context
from backends.procedures.fragment import parsed
from backends.procedures.gate import Voice
from backends.procedures.plan import Step
from backends.procedures.runner import Report
from backends.reach.docker_store import DockerStore
from backends.text import plain

DIGEST_LIMIT: Final = 1800.0
"""Seconds for the SHA-256 of a file; 100 GB take ten minutes on a slow disk."""

_MARK: Final = "tierdeck-model"
"""The file in /tmp of the container by which it is known that the model came by this deployment."""

_BLOBS: Final = f"{OLLAMA_MODELS}/blobs"

_LINK: Final = (
    'sum=$(sha256sum "$1" | cut -c1-64) && [ -n "$sum" ] && mkdir -p "$2" && blob="$2/sha256-$sum" && '
    'if [ -e "$blob" ]; then echo "there $sum"; else ln "$1" "$blob" && echo "linked $sum"; fi'
)
"""A model's file becomes a blob by a second name: the same bytes, no second copy."""


@dataclass(frozen=True, slots=True)
class Ollama:
    """What the step is told; with a `file`, a path in the container, the model is made of that."""

    node: str
    container: str
    endpoint: str
    model: str
    volume: str
    deployment: str
    file: str = ""


class OllamaModel:
    """Pulls or makes the model, and deletes it again from a volume that was there before."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Ollama, step), context

    async def check(self) -> str:
        """It has it."""
        names = set(await self._context.listed(self._told.endpoint))
        return "it has the model already" if names & {self._told.model, f"{self._told.model}:latest"} else ""

    async def apply(self, report: Report) -> None:
        """With its own progress; a pull that breaks off is gone on with."""
        told = self._told
        await self._context.confirm()
        await (await self._store()).put(told.container, "/tmp", _MARK, b"")
        if not told.file:
            await self._hear(report, "pull", await self._context.pull(told.endpoint, told.model))
            return
        name, (new, digest) = told.file.rpartition("/")[2], await self._link()
        try:
            files = {name: f"sha256:{digest}"}
            await self._hear(report, "create", await self._context.create(told.endpoint, told.model, files))
        except ReachError as error:
            if new:
                await self._run("rm", f"{_BLOBS}/sha256-{digest}")
            raise ProcedureError(error.message, f"Is {name} a GGUF that this Ollama knows?") from error

    async def _hear(self, report: Report, verb: str, said: Said) -> None:
        """Tell on what it says until it is done."""
        clock = self._context.clock
        voice, begun = Voice(report, clock), clock.now().mono
        async with aclosing(said) as lines:
            async for words, share in lines:
                figures: dict[str, JsonValue] = {} if share is None else {"progress": share}
                voice.say(verb, clock.now().mono - begun, plain(words), figures)

    async def _link(self) -> tuple[bool, str]:
        """Have the file among the blobs: whether it was not there yet, and its digest."""
        how, digest = (await self._run("/bin/sh", "-c", _LINK, "sh", self._told.file, _BLOBS)).split()
        return how == "linked", digest

    async def _run(self, *argv: str) -> str:
        """A command in its container; ProcedureError with its words where it fails."""
        done = await (await self._store()).run(self._told.container, argv, limit=DIGEST_LIMIT)
        if done.status:
            raise ProcedureError(f"{self._told.container}: {plain(done.words[-400:], 300)}", "Has its image a shell?")
        return done.words

    async def verify(self, report: Report) -> str:
        """It lists it."""
        if not await self.check():
            raise ProcedureError(f"{self._told.endpoint} does not list {self._told.model} after it got it.")
        return f"{self._told.endpoint} has {self._told.model}"

    async def undo(self) -> None:
        """What came stays, for the next try."""

    async def revert(self, report: Report) -> str:
        """Delete it if this deployment gave it and its volume was there before; a volume of ours goes as a whole."""
        told, store = self._told, await self._store()
        volume = await store.volume(told.volume)
        ours = volume is not None and (volume.get("Labels") or {}).get(MADE_BY) == told.deployment
        if volume is None or ours or await store.size(told.container, f"/tmp/{_MARK}") is None:
            return ""
        await self._context.confirm()
        try:
            gone = await self._context.forget(told.endpoint, told.model)
        except ReachError as error:
            raise ProcedureError(f"{told.model} stays in the volume {told.volume}: {error}") from error
        return f"{told.model} is deleted from {told.volume}" if gone else ""

    async def _store(self) -> DockerStore:
        return DockerStore(await self._context.runtime(self._told.node, "docker"))
