"""The step that copies a model into a Docker volume: streamed, gone on with after a cut, checked at the end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from backends.cluster.presets import MADE_BY
from backends.errors import ProcedureError, ReachError, RuntimeFailure
from backends.procedures.context import Context
from backends.procedures.gate import Patience, Voice
from backends.procedures.plan import Step
from backends.procedures.runner import Report
from backends.reach.docker_store import DockerStore
from backends.reach.model_files import ModelFile, ModelFiles
from backends.reach.volume_helper import VolumeHelper

PART: Final = 64 << 20
"""Bytes of a part: what a cut line costs at most."""

OUTAGE: Final = 90.0
"""Seconds for which a line may be cut before the step gives up; nothing that was copied is lost by that."""

AGAIN: Final = 2.0
"""Seconds between two tries to go on."""

SPARE: Final = 256 << 20
"""Bytes that are to stay free on the disk."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What the step is told; `folder` is the model's name in the volume, `token` a reference."""

    node: str
    source: str
    volume: str
    folder: str
    image: str
    name: str
    deployment: str
    token: str | None = None
    sha256: str | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """As a step's arguments."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class CopyModel:
    """Copies every file of a model; what is whole in the volume already stays."""

    def __init__(self, step: Step, context: Context) -> None:
        try:
            self._told = TypeAdapter(Copy).validate_python(dict(step.arguments))
        except ValidationError as error:
            raise ProcedureError(f'The step "{step.label}" cannot be read: {error.error_count()} mistakes.') from None
        self._context = context
        self._words = ""

    async def check(self) -> str:
        """All of its files are in the volume, as far as a container that has it tells without being run."""
        told = self._told
        try:
            store = await self._store()
            holders = await store.holders(told.volume)
            if not holders:
                return ""
            async with self._context.files(told.source, told.token) as files:
                for file in await files.files():
                    path = f"{holders[0][1]}/{self._target(file)}"
                    if await store.size(holders[0][0], path) != file.size:
                        return ""
        except ReachError:
            return ""
        return f"{told.folder} is in the volume already"

    async def apply(self, report: Report) -> None:
        """File by file, each checked before it gets its name."""
        told = self._told
        async with self._context.files(told.source, told.token) as files:
            listed = await files.files()
            await self._context.confirm()
            helper = await self._helper()
            await helper.open()
            await self._refuse_full(helper, listed)
            voice = Progress(report, self._context, sum(file.size for file in listed))
            for file in listed:
                await self._copy(files, file, helper, voice)
            self._words = voice.done(len(listed))

    async def verify(self, report: Report) -> str:
        """Each had its checksum when it was moved to its place; the helper goes."""
        await (await self._helper()).close()
        return self._words or f"{self._told.folder} is in the volume {self._told.volume}"

    async def undo(self) -> None:
        """The helper goes; what was copied stays, so that it can be gone on with."""
        await (await self._helper()).close()

    async def revert(self, report: Report) -> str:
        """Remove what was copied from a volume that was there before; a volume of ours goes as a whole."""
        told, store = self._told, await self._store()
        helper = await self._helper()
        volume = await store.volume(told.volume)
        if volume is None or (volume.get("Labels") or {}).get(MADE_BY) == told.deployment:
            await helper.close()
            return ""
        await self._context.confirm()
        async with self._context.files(told.source, told.token) as files:
            works = [self._work(file) for file in await files.files()]
        await helper.open()
        try:
            await helper.take_back(works)
        finally:
            await helper.close()
        return f"what was copied into {told.volume} is removed"

    # -- one file --------------------------------------------------------------------------------------------------

    async def _copy(self, files: ModelFiles, file: ModelFile, helper: VolumeHelper, voice: Progress) -> None:
        target, work = self._target(file), self._work(file)
        expected = file.sha256 or (self._told.sha256 or "" if not file.name else "")
        there = await helper.size(target)
        if there is not None:
            await self._refuse_other(helper, file, target, there, expected)
            voice.already(file.size)
            return
        await self._bring(files, file, helper, work, voice)
        voice.report({"text": f"{target}: computing its SHA-256 in the volume"})
        found = await helper.digest_of_copy(work, file.size)
        wanted = expected or await files.digest(file)
        if wanted and found != wanted:
            await helper.discard(work)
            raise ProcedureError(
                f"{target} arrived with SHA-256 {found}, expected {wanted}; the copy was removed.",
                "Is the source whole, and is sha256 that of this file?",
            )
        await self._context.confirm()
        await helper.finish(work, target)
        checked = "as expected" if wanted else "with nothing to compare it with"
        voice.report({"text": f"{target}: {_gb(file.size)}, SHA-256 {found} ({checked})"})

    async def _bring(
        self, files: ModelFiles, file: ModelFile, helper: VolumeHelper, work: str, voice: Progress
    ) -> None:
        """All bytes of a file; a line that is cut is waited for, and what came is kept."""
        patience = Patience(self._context.clock, OUTAGE)
        at = await helper.copied(work)
        voice.already(at)
        if at > file.size:
            await helper.discard(work)
            at = 0
        while at < file.size or not file.size:
            patience.see("bytes", at)
            try:
                async with files.stream(file, at) as pieces:
                    at = await self._send(pieces, file, at, helper, work, voice)
                if at < file.size:
                    raise ReachError(f"{self._target(file)} ended after {at} of {file.size} bytes.")
                return
            except ReachError as error:
                if patience.exhausted or (isinstance(error, RuntimeFailure) and error.status is not None):
                    raise
                voice.report({"text": f"the line was cut at {_gb(at)}, going on from there: {error}"})
                await self._context.clock.sleep(AGAIN)
                at = await self._again(helper, work, at)

    async def _again(self, helper: VolumeHelper, work: str, at: int) -> int:
        """Where to go on, once the helper can be asked again."""
        try:
            await helper.open()
            return await helper.copied(work)
        except RuntimeFailure as error:
            if error.status is not None:
                raise
        except ReachError:
            pass  # the line is not back; the caller's patience counts
        return at

    async def _send(
        self, pieces: AsyncIterator[bytes], file: ModelFile, at: int, helper: VolumeHelper, work: str, voice: Progress
    ) -> int:
        """Part after part, the next one read while one is sent; where the copy stands at the end."""
        rest = bytearray()
        coming = asyncio.create_task(_part(pieces, rest))
        try:
            while (data := await coming) or not file.size:
                coming = asyncio.create_task(_part(pieces, rest))
                await self._context.confirm()
                if len(data) == file.size:
                    await helper.put(work, data)
                else:
                    await helper.append(work, data)
                at += len(data)
                voice.came(len(data))
                if not file.size:
                    break
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        return at

    # -- small things ----------------------------------------------------------------------------------------------

    async def _refuse_full(self, helper: VolumeHelper, listed: Sequence[ModelFile]) -> None:
        missing = 0
        for file in listed:
            if await helper.size(self._target(file)) is None:
                missing += max(0, file.size - await helper.copied(self._work(file)))
        free = await helper.free()
        if missing and free < missing + SPARE:
            raise ProcedureError(
                f"{self._told.folder} needs {_gb(missing)} more, and {self._told.node} has {_gb(free)} free there.",
                "Free disk space: docker system df",
            )

    async def _refuse_other(
        self, helper: VolumeHelper, file: ModelFile, target: str, there: int, expected: str
    ) -> None:
        same = there == file.size and (not expected or await helper.digest(target, there) == expected)
        if not same:
            raise ProcedureError(
                f"The volume {self._told.volume} has another {target} ({_gb(there)}, expected {_gb(file.size)}).",
                "Name another volume, or remove that file.",
            )

    def _target(self, file: ModelFile) -> str:
        return f"{self._told.folder}/{file.name}" if file.name else self._told.folder

    def _work(self, file: ModelFile) -> str:
        """A folder for an unfinished copy: the same for the same content, so that another try finds it."""
        words = f"{self._told.source} {file.name} {file.size} {file.mark}"
        return f".tierdeck-{hashlib.sha256(words.encode()).hexdigest()[:16]}"

    async def _store(self) -> DockerStore:
        return DockerStore(await self._context.runtime(self._told.node, "docker"))

    async def _helper(self) -> VolumeHelper:
        told = self._told
        return VolumeHelper(await self._store(), told.node, told.name, told.image, told.volume, told.deployment)


async def _part(pieces: AsyncIterator[bytes], rest: bytearray) -> bytes:
    """The next part of `PART` bytes, or what is left; `rest` keeps what came beyond."""
    while len(rest) < PART:
        piece = await anext(pieces, b"")
        if not piece:
            break
        rest += piece
    found = bytes(rest[:PART])
    del rest[:PART]
    return found


class Progress:
    """Tells how far it is: bytes, rate, time left."""

    def __init__(self, report: Report, context: Context, total: int) -> None:
        self.report = report
        self._clock = context.clock
        self._voice = Voice(report, context.clock)
        self._total = total
        self._there = self._sent = 0
        self._begun = context.clock.now().mono

    def already(self, count: int) -> None:
        """So many bytes are there without being sent."""
        self._there += count
        self._say()

    def came(self, count: int) -> None:
        """So many bytes more were sent."""
        self._sent += count
        self._say()

    def done(self, files: int) -> str:
        """The whole of it in words."""
        seconds = self._clock.now().mono - self._begun
        many = f"{files} files, " if files > 1 else ""
        return f"{many}{_gb(self._total)} in the volume, {_gb(self._sent)} sent in {seconds:.0f} s"

    def _say(self) -> None:
        seconds = self._clock.now().mono - self._begun
        rate = self._sent / seconds if seconds > 0 else 0.0
        have = self._there + self._sent
        left = f", {_time((self._total - have) / rate)} left" if rate else ""
        text = f"{_gb(have)} of {_gb(self._total)}, {rate / 1e6:.1f} MB/s{left}"
        share = min(1.0, have / self._total) if self._total else 1.0
        figures: dict[str, JsonValue] = {"progress": share, "bytes": have, "bytes_total": self._total}
        self._voice.say("copy", seconds, text, figures)


def _gb(count: float) -> str:
    """Bytes as people say them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
