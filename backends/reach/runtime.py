"""The protocols behind which every node stands: `Shell` runs commands, `Runtime` drives what runs there.

No procedure and no widget names Docker in its logic; a runtime that cannot do something raises RuntimeFailure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from backends.cluster.reading import Device, Workload


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended: its exit code and what it wrote, decoded with replacement."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something that happened to a workload: `action` is start, die, stop, health, create, destroy, ... ."""

    at: float
    name: str
    action: str
    gpu: bool = False
    id: str = ""


class Shell(Protocol):
    """Runs commands on one node; raises SshError when the node cannot be touched."""

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command to its end; TimeoutError after `timeout` seconds."""
        ...

    def lines(self, argv: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Start a command and yield its output line by line; it is ended on leaving."""
        ...


class Runtime(Protocol):
    """What runs on one node."""

    kind: str

    async def version(self) -> str:
        """The runtime's own version; proves that it answers."""
        ...

    async def workloads(self) -> tuple[Workload, ...]:
        """All of them, running or not."""
        ...

    async def devices(self) -> tuple[Device, ...]:
        """The hardware that it hands out by numbers; none where it does not."""
        ...

    async def state(self, name: str) -> Workload:
        """One of them, freshly asked; `state` is "missing" where there is none of that name."""
        ...

    async def start(self, name: str) -> None:
        """Start it; nothing happens where it runs already."""
        ...

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Stop it, by force after `grace` seconds; nothing happens where it is stopped already."""
        ...

    def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Its log lines, oldest first."""
        ...

    def events(self, *, since: float | None = None) -> AbstractAsyncContextManager[AsyncIterator[RuntimeEvent]]:
        """What happens to workloads from now (or `since`, Unix seconds) on; ends when the connection does."""
        ...


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What declaring a thing would change, line by line, as the runtime itself says; `former` is what is there now."""

    changes: tuple[str, ...]
    former: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work that the runtime does by itself: running, done, failed or missing, with its last log lines."""

    state: Literal["running", "done", "failed", "missing"]
    lines: tuple[str, ...] = ()


class Objects(Protocol):
    """What there is to be, told as data: where things are declared, not made.

    Every thing bears its deployment's mark, by which what is ours is known again.
    """

    async def rehearse(self, thing: Mapping[str, Any]) -> Rehearsal:
        """Ask what declaring it would change; nothing is changed. RuntimeFailure where it would be refused."""
        ...

    async def declare(self, thing: Mapping[str, Any]) -> None:
        """Have it so; what runs by it is stopped first, and started by nobody but the start queue."""
        ...

    async def withdraw(self, thing: Mapping[str, Any], former: Mapping[str, Any] | None) -> str:
        """Have it as it was: gone where there was no `former`; in words what was done, "" where nothing was ours."""
        ...

    async def work(self, thing: Mapping[str, Any]) -> Work:
        """How far a declared piece of work is."""
        ...

    async def noted(self, thing: Mapping[str, Any]) -> str:
        """What was noted on it by `note`; "" for nothing."""
        ...

    async def note(self, thing: Mapping[str, Any], words: str) -> None:
        """Keep words on it that outlast whoever wrote them; "" takes them away."""
        ...


@runtime_checkable
class Declares(Protocol):
    """A runtime that makes things so that are declared to it."""

    @property
    def objects(self) -> Objects:
        """What is declared to it."""
        ...
