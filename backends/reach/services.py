"""Native services as a Runtime: systemd, launchd and Windows services, asked by their own commands.

Their names come from the inventory (`service = "systemd:ollama"`); others of the machine are not looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import ClassVar, Final

from backends.cluster.reading import Device, Workload
from backends.errors import RuntimeFailure
from backends.reach import services_words as words
from backends.reach.runtime import Completed, RuntimeEvent, Shell
from backends.reach.streams import clean, first_words

LIMIT: Final = 15.0
"""Seconds for a question; PowerShell alone takes several on a slow machine."""

CHANGE_LIMIT: Final = 120.0
"""Seconds for a start or stop; systemd itself gives up after 90."""


class Services(ABC):
    """What all service managers have in common; `gpu` says whether the node's services use its GPUs."""

    kind: str
    title: ClassVar[str]

    def __init__(self, node: str, shell: Shell, names: Sequence[str], *, gpu: bool = False) -> None:
        self._node = node
        self._shell = shell
        self._names = tuple(names)
        self._gpu = gpu

    async def workloads(self) -> tuple[Workload, ...]:
        """The services that the inventory names."""
        return await self._ask(self._names) if self._names else ()

    async def devices(self) -> tuple[Device, ...]:
        """None: services share GPUs as they please."""
        return ()

    async def state(self, name: str) -> Workload:
        """One service, freshly asked; `state` is "missing" where there is none of that name."""
        found = await self._ask((name,))
        return found[0] if found else Workload(name=name, runtime=self.kind, state="missing", gpu=self._gpu)

    def events(self, *, since: float | None = None) -> AbstractAsyncContextManager[AsyncIterator[RuntimeEvent]]:
        """RuntimeFailure: service managers tell nothing by themselves."""
        raise RuntimeFailure(f"{self.title} on {self._node} tells of no events; ask for its workloads instead.")

    @abstractmethod
    async def version(self) -> str:
        """The manager's version; proves that it answers."""

    @abstractmethod
    async def start(self, name: str) -> None:
        """Start it; nothing happens where it runs already."""

    @abstractmethod
    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Stop it; how long it is given is the manager's own affair."""

    @abstractmethod
    def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Its log lines, oldest first, freed of control sequences."""

    @abstractmethod
    async def _ask(self, names: Sequence[str]) -> tuple[Workload, ...]: ...

    async def _run(self, argv: Sequence[str], limit: float = LIMIT) -> Completed:
        try:
            return await self._shell.run(argv, timeout=limit)
        except TimeoutError as error:
            raise RuntimeFailure(f"{self.title} on {self._node} did not answer within {limit:g} s.") from error

    def _failure(self, done: Completed) -> RuntimeFailure:
        said = first_words(done.stderr) or first_words(done.stdout) or f"status {done.status}"
        return RuntimeFailure(f"{self.title} on {self._node}: {said}", words.advice(done.stderr, self._node))

    async def _must(self, argv: Sequence[str], limit: float = LIMIT) -> str:
        done = await self._run(argv, limit)
        if done.status:
            raise self._failure(done)
        return done.stdout

    @asynccontextmanager
    async def _log(self, argv: Sequence[str]) -> AsyncGenerator[AsyncIterator[str], None]:
        async with self._shell.lines(argv) as lines, aclosing(_cleaned(lines)) as cleaned:
            yield cleaned


class Systemd(Services):
    """System units; where the user may not change them, `sudo -n` is tried."""

    kind = "systemd"
    title = "systemd"

    async def version(self) -> str:
        """systemd's version, such as 252."""
        return first_words(await self._must(["systemctl", "--version"])).removeprefix("systemd ").partition(" ")[0]

    async def start(self, name: str) -> None:
        """Start the unit; nothing happens where it runs already."""
        await self._change("start", name)

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Stop the unit; its own TimeoutStopSec counts, not `grace`."""
        await self._change("stop", name)

    def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """The unit's journal."""
        argv = ["journalctl", "--no-pager", "-o", "cat", "-n", str(tail), "-u", words.unit(name)]
        return self._log([*argv, "-f"] if follow else argv)

    async def _ask(self, names: Sequence[str]) -> tuple[Workload, ...]:
        units = [words.unit(name) for name in names]
        argv = ["env", "TZ=UTC", "LC_ALL=C", "systemctl", "show", "--no-pager", "-p", words.PROPERTIES, "--", *units]
        return words.systemd(await self._must(argv), names, gpu=self._gpu)

    async def _change(self, verb: str, name: str) -> None:
        argv = ["systemctl", "--no-ask-password", verb, "--", words.unit(name)]
        done = await self._run(argv, CHANGE_LIMIT)
        if done.status and words.needs_rights(done.stderr):
            done = await self._run(["sudo", "-n", *argv], CHANGE_LIMIT)
        if done.status:
            raise self._failure(done)


class Launchd(Services):
    """Agents and daemons of macOS, in whichever domain the label is found."""

    kind = "launchd"
    title = "launchd"

    async def version(self) -> str:
        """The version of macOS."""
        return (await self._must(["sw_vers", "-productVersion"])).strip()

    async def start(self, name: str) -> None:
        """Start the job, loading it from its property list where it is not loaded."""
        await self._must(["sh", "-c", words.LAUNCHD_START, "sh", name], CHANGE_LIMIT)

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Unload the job until it is started again or the machine is; KeepAlive would undo anything less."""
        await self._must(["sh", "-c", words.LAUNCHD_STOP, "sh", name], CHANGE_LIMIT)

    @asynccontextmanager
    async def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AsyncGenerator[AsyncIterator[str], None]:
        """The file that the job's property list names for its output."""
        path = words.launchd_log(await self._must(["sh", "-c", words.LAUNCHD_PRINT, "sh", name]))
        if path is None:
            raise RuntimeFailure(
                f"{name} on {self._node} writes its output nowhere.", "Give its property list a StandardOutPath."
            )
        async with self._log(["tail", "-n", str(tail), *(["-F"] if follow else []), path]) as lines:
            yield lines

    async def _ask(self, names: Sequence[str]) -> tuple[Workload, ...]:
        found = []
        for name in names:
            done = await self._run(["sh", "-c", words.LAUNCHD_PRINT, "sh", name])
            found.append(words.launchd(done.stdout if done.status == 0 else "", name, gpu=self._gpu))
        return tuple(found)


class WindowsServices(Services):
    """Windows services, by PowerShell's -EncodedCommand, which needs no quoting in any shell."""

    kind = "windows"
    title = "The service manager"

    async def version(self) -> str:
        """The version of Windows."""
        return (await self._must(words.powershell("[Environment]::OSVersion.Version.ToString()"))).strip()

    async def start(self, name: str) -> None:
        """Start the service; nothing happens where it runs already."""
        await self._must(words.powershell(words.windows_change("Start-Service", name)), CHANGE_LIMIT)

    async def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Stop the service; refused where others depend on it."""
        await self._must(words.powershell(words.windows_change("Stop-Service", name)), CHANGE_LIMIT)

    def logs(
        self, name: str, *, tail: int = 100, follow: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """RuntimeFailure: where a Windows service writes is its own affair."""
        raise RuntimeFailure(
            f"Windows keeps no log of the service {name}.", f"Look into the Event Viewer of {self._node}."
        )

    async def _ask(self, names: Sequence[str]) -> tuple[Workload, ...]:
        return words.windows(await self._must(words.powershell(words.windows_query(names))), names, gpu=self._gpu)


MANAGERS: Final[dict[str, type[Services]]] = {"systemd": Systemd, "launchd": Launchd, "windows": WindowsServices}
"""The service managers by the word before the colon in `service = "systemd:ollama"`."""


async def _cleaned(lines: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    async for line in lines:
        yield clean(line)
