"""What steps may ask of the outside, as callables, so that the same steps run against fakes, the demo and machines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from backends.clock import Clock
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, ProbeResult, Workload
from backends.cluster.tables import Endpoint
from backends.cluster.words import NATIVE
from backends.engines.ollama_library import Said
from backends.errors import ReachError, SshError
from backends.maintenance import Maintenance
from backends.procedures.learned import Learned
from backends.procedures.outage import Outages
from backends.reach.lease import Place
from backends.reach.model_files import ModelFiles
from backends.reach.runtime import Runtime, Shell


def _no_shell(node: str) -> Shell:
    raise SshError(f"There is no way to a shell of {node}.")


def _no_places(node: str) -> Sequence[Place]:
    return ()


async def _no_shares(endpoint: str) -> AsyncGenerator[float, None]:
    return
    yield


def _no_files(source: str, token: str | None) -> AbstractAsyncContextManager[ModelFiles]:
    raise ReachError(f"There is no way to {source} from here.")


async def _no_pull(endpoint: str, model: str) -> Said:
    raise ReachError(f"There is no way to have {endpoint} pull {model} from here.")


async def _no_create(endpoint: str, model: str, files: Mapping[str, str]) -> Said:
    raise ReachError(f"There is no way to have {endpoint} create {model} from here.")


async def _no_forget(endpoint: str, model: str) -> bool:
    raise ReachError(f"There is no way to have {endpoint} delete {model} from here.")


async def _no_answer(endpoint: str, prompt: str) -> str:
    raise ReachError(f"There is no way to ask {endpoint} from here.")


async def _no_list(endpoint: str) -> tuple[str, ...]:
    return ()


async def _no_token(endpoint: str, model: str, embeds: bool) -> str:
    return "nobody can be asked here"


async def _unguarded() -> None:
    """Nobody else can be there."""


class Touch(Protocol):
    """What the rungs may do beyond runtimes and shells; each raises a ReachError or SecretError."""

    async def alive(self, node: str) -> str:
        """Which of its ports answers (SSH's or the desktop's), in words; "" where none does."""
        ...

    async def secret(self, reference: str) -> SecretStr:
        """A secret, resolved at this moment."""
        ...

    async def wake(self, node: str) -> str:
        """Send whatever wakes it; what was sent, in words."""
        ...

    async def logged_in(self, node: str) -> tuple[str, ...] | None:
        """Who has a desktop session there; None where that cannot be asked."""
        ...

    def desktop(self, node: str) -> AbstractAsyncContextManager[Callable[[], None]]:
        """A desktop session as long as it is held; what is yielded raises a ReachError once it is over."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """The outside of a procedure; whoever opened it closes it.

    `runtime(node, kind)` drives what runs there (kind: docker, kubernetes, systemd, launchd, windows),
    `workloads(node)` lists it all; both may raise a ReachError. `probe(endpoint)` never raises. `vram(node)` is None
    where it cannot be read.
    `shares(endpoint)` are the shares of its model that an engine says it has loaded, from 0 to 1, as it loads; it may
    raise a ProbeFailure or a ReachError.
    `listed(endpoint)` are the models it names now (ReachError where it does not say), `prompt(endpoint, model, embeds)`
    asks one for a token, or a vector: "" where it answered, else why not.
    `places(node)` are where its lease is kept, `away(node)` where while it is out of reach; `confirm()` asks the node
    whether the lease is still ours, and is called right before every change: ProcedureError where it is not.
    `pull(endpoint, model)` has an Ollama fetch a model: its words, and the share that came; `create(endpoint, model,
    files)` has it make one of blobs that it has, by name and digest; `forget(endpoint, model)` has it delete one.
    `files(source, token)` are the files of a model, `token` a reference; `ask(endpoint, prompt)` is the beginning of an
    answer, or a ChatError.
    `here` is the node one stands on, `touch` what the rungs of the recovery ladder may do,
    `maintenance` what is left alone, and until when.
    `targets` are the workloads of the plan in their order. `learned` and `outages` are what is remembered.
    """

    inventory: Inventory
    clock: Clock
    runtime: Callable[[str, str], Awaitable[Runtime]]
    workloads: Callable[[str], Awaitable[tuple[Workload, ...]]]
    probe: Callable[[str], Awaitable[ProbeResult]]
    vram: Callable[[str], Awaitable[tuple[Gpu, ...] | None]]
    shares: Callable[[str], AsyncGenerator[float, None]] = _no_shares
    listed: Callable[[str], Awaitable[tuple[str, ...]]] = _no_list
    prompt: Callable[[str, str, bool], Awaitable[str]] = _no_token
    shell: Callable[[str], Shell] = _no_shell
    files: Callable[[str, str | None], AbstractAsyncContextManager[ModelFiles]] = _no_files
    ask: Callable[[str, str], Awaitable[str]] = _no_answer
    pull: Callable[[str, str], Awaitable[Said]] = _no_pull
    create: Callable[[str, str, Mapping[str, str]], Awaitable[Said]] = _no_create
    forget: Callable[[str, str], Awaitable[bool]] = _no_forget
    here: str | None = None
    touch: Touch | None = None
    maintenance: Maintenance | None = None
    places: Callable[[str], Sequence[Place]] = _no_places
    away: Callable[[str], Sequence[Place]] = _no_places
    confirm: Callable[[], Awaitable[None]] = _unguarded
    targets: tuple[str, ...] = ()
    learned: Learned = field(default_factory=Learned)
    outages: Outages = field(default_factory=Outages)


def title(workload: Workload) -> str:
    """A workload as cluster.toml names it: a container by its name, a service as systemd:NAME."""
    return f"{workload.runtime}:{workload.name}" if workload.runtime in NATIVE else workload.name


def residence(endpoint: Endpoint) -> str:
    """The container or service an endpoint runs in, as cluster.toml names it; "" where it names none."""
    return endpoint.container or endpoint.service or ""


def endpoints_in(inventory: Inventory, node: str, workload: str) -> tuple[Endpoint, ...]:
    """The endpoints of `node` that run in the workload of that title."""
    return tuple(e for e in inventory.endpoints if e.node == node and workload and residence(e) == workload)
