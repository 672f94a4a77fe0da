"""The step that makes a container anew, with the same settings, under the same name, through the gate of its host.

One that has lost its GPU gets it back by nothing less. The old one is kept under another name until the new one is
ready; where that fails, it gets its name back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from backends.errors import ProcedureError
from backends.procedures.container import StartContainer
from backends.procedures.context import Context
from backends.procedures.plan import Danger, Step
from backends.procedures.runner import Report, StepKind
from backends.reach.runtime import Runtime

SUFFIX: Final = ".before"
"""What is put behind the name of the old one."""


@runtime_checkable
class Recreates(Runtime, Protocol):
    """A runtime whose containers can be made anew."""

    async def hindrance(self, name: str) -> str:
        """Why no faithful twin can be made, or ""."""
        ...

    async def create_twin(self, old: str, name: str) -> None:
        """Create a container with the settings of another."""
        ...

    async def rename(self, name: str, new: str) -> None:
        """Give it another name."""
        ...

    async def remove(self, name: str) -> None:
        """Remove it, and none of its volumes."""
        ...

    async def written(self, name: str) -> list[str]:
        """Files that it wrote outside its volumes."""
        ...

    async def restart_policy(self, name: str) -> str:
        """Its restart policy."""
        ...

    async def update_restart(self, name: str, policy: str) -> None:
        """Give it another restart policy."""
        ...


def recreate_step(step: Step) -> Step:
    """A step that restarts a container of Docker, as one that makes it anew."""
    name = str(step.arguments["name"])
    old = f"{name}{SUFFIX}"
    renewed = f"docker create --name {name} (the same settings); docker start {name}"
    command = f"docker stop {name}; docker rename {name} {old}; {renewed}; docker rm {old}"
    return Step("recreate_container", f"recreate {name}", step.arguments, step.time_limit, Danger.INTERRUPTS, command)


class RecreateContainer(StartContainer):
    """Stops, renames, creates, starts through the gate, removes the old one."""

    _ready = False

    @property
    def _old(self) -> str:
        return f"{self._told.name}{SUFFIX}"

    async def apply(self, report: Report) -> None:
        """Make it anew, as far as that was not done before, and start it when it is its turn."""
        docker, name = await self._docker(), self._told.name
        present, kept = await docker.state(name), await docker.state(self._old)
        if kept.state != "missing" and self._is_old(present):
            raise ProcedureError(
                f"{self._old} is there already, from another time.", f"Look at it, then: docker rm {self._old}"
            )
        if kept.state == "missing":
            if why := await docker.hindrance(name):
                raise ProcedureError(f"{name} cannot be made anew: {why}.", f"Restart it: docker restart {name}")
            await self._stop(report)
            await docker.rename(name, self._old)
        if kept.state == "missing" or present.state == "missing":
            report({"text": f"creating {name} with the same settings; the old one is {self._old}"})
            await self._context.confirm()
            await docker.create_twin(self._old, name)
            await docker.update_restart(self._old, "no")
        await super().apply(report)

    async def verify(self, report: Report) -> str:
        """The gate; then the old one goes, unless something would go with it."""
        told = await super().verify(report)
        self._ready = True
        docker = await self._docker()
        if (await docker.state(self._old)).state == "missing":
            return told
        if files := await docker.written(self._old):
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            return f"{told}; {self._old} is kept: it wrote {files[0]}{more} outside its volumes"
        await docker.remove(self._old)
        return f"{told}; made anew"

    async def undo(self) -> None:
        """The old one gets its name back, and stays stopped; a new one that was ready is left alone."""
        docker, name = await self._docker(), self._told.name
        if self._ready or (await docker.state(self._old)).state == "missing":
            return
        if (new := await docker.state(name)).state != "missing":
            policy = await docker.restart_policy(name)
            if new.running:
                await docker.stop(name, grace=5.0)
            await docker.remove(name)
            await docker.update_restart(self._old, policy)
        await docker.rename(self._old, name)

    async def _docker(self) -> Recreates:
        runtime = await self._runtime()
        if not isinstance(runtime, Recreates):
            raise ProcedureError(f"{self._told.name} cannot be made anew: it is no container of Docker.")
        return runtime


RECREATE_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {"recreate_container": RecreateContainer}
