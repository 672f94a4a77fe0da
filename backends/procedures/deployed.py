"""The steps of a deployment: image, GPUs, volume, container, cluster.d, a first prompt; each can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import JsonValue

from backends.cluster.presets import KEY_FILE, MADE_BY, labels
from backends.errors import ProcedureError, RuntimeFailure
from backends.procedures.context import Context
from backends.procedures.copying import CopyModel
from backends.procedures.fragment import Fragment, WriteFragment, parsed
from backends.procedures.gate import Voice
from backends.procedures.ollama import Ollama, OllamaModel
from backends.procedures.plan import Step
from backends.procedures.runner import Report, StepKind
from backends.reach.docker_store import DockerStore, Json
from backends.text import plain

TRIAL: Final = "tierdeck-gpus-"
"""How the container begins by which a deployment asks whether GPUs can be had."""


@dataclass(frozen=True, slots=True)
class Image:
    """What the step is told; an image that was `absent` at the plan goes again where the plan is taken back."""

    node: str
    image: str
    absent: bool = True


@dataclass(frozen=True, slots=True)
class Trial:
    """What the step is told: the devices as they stand in a container's HostConfig."""

    node: str
    name: str
    image: str
    deployment: str
    devices: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Volume:
    """What the step is told."""

    node: str
    volume: str
    name: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Container:
    """What the step is told: the body for Docker, and a reference to the key that goes into a file of it."""

    node: str
    name: str
    deployment: str
    body: dict[str, Any] = field(default_factory=dict)
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What the step is told."""

    endpoint: str
    prompt: str


def to_json(told: Image | Trial | Volume | Container | Fragment | Ollama | Question) -> dict[str, JsonValue]:
    """As a step's arguments."""
    return {key: value for key, value in asdict(told).items() if value is not None}


class HaveImage:
    """Has an image fetched that is not there."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Image, step), context

    async def check(self) -> str:
        """It is there."""
        return "there already" if await (await self._store()).image(self._told.image) else ""

    async def apply(self, report: Report) -> None:
        """Layer by layer, with their share as progress."""
        store = await self._store()
        await self._context.confirm()
        voice, begun = Voice(report, self._context.clock), self._context.clock.now().mono
        async for words, share in store.pull(self._told.image):
            figures: dict[str, JsonValue] = {} if share is None else {"progress": share}
            voice.say("pull", self._context.clock.now().mono - begun, plain(words), figures)

    async def verify(self, report: Report) -> str:
        """Docker has it."""
        if await (await self._store()).image(self._told.image) is None:
            raise ProcedureError(f"{self._told.node} has no image {self._told.image} after it was fetched.")
        return f"{self._told.image} is there"

    async def undo(self) -> None:
        """Layers that came stay in Docker's keeping."""

    async def revert(self, report: Report) -> str:
        """It goes again, if it came with this plan and nothing uses it."""
        store = await self._store()
        if not self._told.absent or await store.image(self._told.image) is None:
            return ""
        await store.remove_image(self._told.image)
        return f"the image {self._told.image} is removed"

    async def _store(self) -> DockerStore:
        return await _store(self._context, self._told.node)


class TryGpus:
    """Has a container start that does nothing, to know whether its runtime gives GPUs before gigabytes are copied."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Trial, step), context

    async def check(self) -> str:
        """It is always tried."""
        return ""

    async def apply(self, report: Report) -> None:
        """Make it, start it, wait for its end, remove it; no engine, no CUDA."""
        store, told = await _store(self._context, self._told.node), self._told
        body = {
            "Image": told.image,
            "Entrypoint": ["/bin/true"],
            "Cmd": [],
            "Labels": labels(told.name, told.deployment),
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {"NetworkMode": "none", **told.devices},
        }
        await self._context.confirm()
        await self._remove()
        id = await store.create(f"{TRIAL}{told.name}", body)
        try:
            await store.start(id)
            await store.wait(id)
        finally:
            await store.remove(id)

    async def verify(self, report: Report) -> str:
        """Docker started it."""
        return f"Docker on {self._told.node} gives containers its GPUs"

    async def undo(self) -> None:
        """It goes."""
        await self._remove()

    async def revert(self, report: Report) -> str:
        """It is gone, unless a crash left it."""
        await self._remove()
        return ""

    async def _remove(self) -> None:
        await _remove(await _store(self._context, self._told.node), f"{TRIAL}{self._told.name}", self._told.deployment)


class MakeVolume:
    """Makes a volume that bears our mark."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Volume, step), context

    async def check(self) -> str:
        """It is there, whoever made it."""
        there = await (await self._store()).volume(self._told.volume)
        return "there already" if there is not None else ""

    async def apply(self, report: Report) -> None:
        """One call."""
        await self._context.confirm()
        await (await self._store()).create_volume(self._told.volume, labels(self._told.name, self._told.deployment))

    async def verify(self, report: Report) -> str:
        """Docker has it."""
        if not await self.check():
            raise ProcedureError(f"{self._told.node} has no volume {self._told.volume} after it was made.")
        return f"{self._told.volume} is there"

    async def undo(self) -> None:
        """It stays; another try finds it."""

    async def revert(self, report: Report) -> str:
        """It goes with all that is in it, if it is ours; one that is in use by now is left alone, and said so."""
        store, told = await self._store(), self._told
        there = await store.volume(told.volume)
        if there is None or (there.get("Labels") or {}).get(MADE_BY) != told.deployment:
            return ""
        try:
            await store.remove_volume(told.volume)
        except RuntimeFailure as failure:
            if failure.status == 409:
                raise ProcedureError(f"The volume {told.volume} is used by another container by now.") from failure
            raise
        return f"the volume {told.volume} is removed"

    async def _store(self) -> DockerStore:
        return await _store(self._context, self._told.node)


class MakeContainer:
    """Makes the container, and puts its key into a file that only its user reads."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Container, step), context

    async def check(self) -> str:
        """Ours is there, with its key."""
        store, told = await self._store(), self._told
        there = await store.container(told.name)
        if there is None or not _ours(there, told.deployment):
            return ""
        return "made already" if not told.api_key or await store.size(str(there["Id"]), KEY_FILE) else ""

    async def apply(self, report: Report) -> None:
        """The container, then the key; RuntimeFailure where the name was taken meanwhile."""
        store, told = await self._store(), self._told
        await self._context.confirm()
        await _remove(store, told.name, told.deployment)
        id = await store.create(told.name, told.body)
        if told.api_key is None:
            return
        if self._context.touch is None:
            raise ProcedureError(f"The key of {told.name} cannot be resolved from here.")
        key = (await self._context.touch.secret(told.api_key)).get_secret_value().encode()
        folder, _, rest = KEY_FILE.removeprefix("/").partition("/")
        owner = await self._owner(store)
        await store.put(id, f"/{folder}", rest, key, mode=0o600, owner=owner)

    async def _owner(self, store: DockerStore) -> int:
        """The user id the image runs as, where it names one by number."""
        image = await store.image(str(self._told.body.get("Image", ""))) or {}
        user = str((image.get("Config") or {}).get("User") or "0").partition(":")[0]
        return int(user) if user.isdecimal() else 0

    async def verify(self, report: Report) -> str:
        """Docker has it."""
        if not await self.check():
            raise ProcedureError(f"{self._told.node} has no container {self._told.name} of ours after it was made.")
        return f"{self._told.name} is made, not started"

    async def undo(self) -> None:
        """One that was not finished goes."""
        await self._remove()

    async def revert(self, report: Report) -> str:
        """It goes, running or not."""
        return f"the container {self._told.name} is removed" if await self._remove() else ""

    async def _remove(self) -> bool:
        return await _remove(await self._store(), self._told.name, self._told.deployment)

    async def _store(self) -> DockerStore:
        return await _store(self._context, self._told.node)


class AskOnce:
    """Asks the new model one prompt."""

    def __init__(self, step: Step, context: Context) -> None:
        self._told, self._context = parsed(Question, step), context
        self._answer = ""

    async def check(self) -> str:
        """It is always asked."""
        return ""

    async def apply(self, report: Report) -> None:
        """One prompt, a few tokens."""
        self._answer = await self._context.ask(self._told.endpoint, self._told.prompt)

    async def verify(self, report: Report) -> str:
        """The answer came."""
        words = plain(self._answer, 60)
        return f"{self._told.endpoint} answers: {words}" if words else f"{self._told.endpoint} answers"

    async def undo(self) -> None:
        """Nothing was changed."""


async def _store(context: Context, node: str) -> DockerStore:
    return DockerStore(await context.runtime(node, "docker"))


def _ours(there: Json, deployment: str) -> bool:
    return (there["Config"].get("Labels") or {}).get(MADE_BY) == deployment


async def _remove(store: DockerStore, name: str, deployment: str) -> bool:
    """Remove a container that bears our mark; whether there was one."""
    there = await store.container(name)
    if there is None or not _ours(there, deployment):
        return False
    await store.remove(str(there["Id"]))
    return True


DEPLOY_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "have_image": HaveImage,
    "try_gpus": TryGpus,
    "make_volume": MakeVolume,
    "copy_model": CopyModel,
    "make_container": MakeContainer,
    "write_fragment": WriteFragment,
    "ollama_model": OllamaModel,
    "ask_once": AskOnce,
}
