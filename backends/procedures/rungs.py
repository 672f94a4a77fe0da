"""The rungs of the recovery ladder: Docker restarted, a machine woken, a desktop session held until Docker answers.

Each asks first whether it is needed, and proves afterwards that it helped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from backends.cluster.tables import Node
from backends.cluster.words import KUBERNETES
from backends.errors import ProcedureError, ReachError
from backends.procedures.context import Context, Touch
from backends.procedures.plan import Step
from backends.procedures.rung_words import docker_command
from backends.procedures.runner import Report, StepKind

DOCKER_LIMIT: Final = 120.0
"""Seconds for the command that restarts Docker; Docker Desktop takes its time."""

DOCKER_BACK: Final = 180.0
"""Seconds until Docker has to answer after something that should have brought it back."""

WAKE_BACK: Final = 300.0
"""Seconds until a woken machine has to answer: a cold start with a slow firmware."""

WAKE_AGAIN: Final = 15.0
"""Seconds after which it is woken once more; a packet in the air may be lost."""

HOLD: Final = 60.0
"""Seconds for which Docker has to have answered before the desktop session is let go."""

LOOK: Final = 1.0
"""Seconds between two looks at the most; ..."""

SOONEST: Final = 0.05
"""... and at the least: in between 2% of the time waited, so that looking seldom costs no more than that."""


class Rung:
    """What the rungs share: their node, and the question whether its Docker answers."""

    def __init__(self, step: Step, context: Context) -> None:
        self._context, self._clock = context, context.clock
        self._node: Node = context.inventory.node_named[str(step.arguments["node"])]
        self._arguments = step.arguments

    @property
    def _touch(self) -> Touch:
        if self._context.touch is None:
            raise ProcedureError("Nothing here can wake or restart a machine.")
        return self._context.touch

    async def _docker(self) -> str:
        """Docker's version; ReachError where it does not answer."""
        with self._context.outages.watched():
            return await (await self._context.runtime(self._node.name, "docker")).version()

    async def _docker_answers(self) -> str:
        try:
            return f"Docker {await self._docker()} answers: nothing to do"
        except (ReachError, TimeoutError):
            return ""

    async def _until(self, limit: float, what: str, report: Report, look: Callable[[], Awaitable[str]]) -> str:
        """What `look` says as soon as it says something; ProcedureError after `limit` seconds."""
        begun = self._clock.now().mono
        trouble, told = "", -LOOK
        while True:
            try:
                if said := await look():
                    return said
            except (ReachError, TimeoutError) as error:
                trouble = str(error)
            waited = self._clock.now().mono - begun
            if waited >= limit:
                raise ProcedureError(f"{what} for {limit:.0f} s in vain. {trouble}".rstrip())
            if waited - told >= 1.0:
                told = waited
                report({"text": f"{what} {waited:.0f} s", "gate": what, "waited_s": round(waited, 1)})
            await self._clock.sleep(min(LOOK, max(SOONEST, 0.02 * waited)))

    async def _docker_back(self, report: Report, limit: float = DOCKER_BACK) -> str:
        async def look() -> str:
            return f"Docker {await self._docker()} answers"

        return await self._until(limit, "waiting for Docker", report, look)

    async def undo(self) -> None:
        """Nothing that is begun here is left half done."""


class RestartDocker(Rung):
    """Restarts Docker by the node's own means; `sudo` gets its password by standard input."""

    async def check(self) -> str:
        """Docker answers."""
        return await self._docker_answers()

    async def apply(self, report: Report) -> None:
        """Run the command."""
        command = docker_command(self._node, here=self._node.name == self._context.here)
        stdin = b""
        if command.sudo is not None:
            stdin = (await self._touch.secret(command.sudo)).get_secret_value().encode() + b"\n"
        await self._context.confirm()
        try:
            done = await self._context.shell(self._node.name).run(command.argv, stdin=stdin, timeout=DOCKER_LIMIT)
        except TimeoutError:
            raise ProcedureError(f"{command.shown} did not end within {DOCKER_LIMIT:.0f} s.") from None
        if done.status:
            raise ProcedureError(*command.refused(done))

    async def verify(self, report: Report) -> str:
        """Docker answers."""
        return await self._docker_back(report)


class WakeNode(Rung):
    """Wakes a machine, and again every quarter of a minute until it answers."""

    async def check(self) -> str:
        """It answers."""
        said = await self._touch.alive(self._node.name)
        return f"{said}: it is awake" if said else ""

    async def apply(self, report: Report) -> None:
        """Send what wakes it."""
        report({"text": await self._touch.wake(self._node.name)})

    async def verify(self, report: Report) -> str:
        """Its SSH or desktop port answers."""
        woken = self._clock.now().mono

        async def look() -> str:
            nonlocal woken
            if said := await self._touch.alive(self._node.name):
                return said
            if self._clock.now().mono - woken >= WAKE_AGAIN:
                woken = self._clock.now().mono
                report({"text": await self._touch.wake(self._node.name)})
            return ""

        return await self._until(WAKE_BACK, "waiting for it to wake", report, look)


class DesktopSession(Rung):
    """Opens a desktop session, holds it until Docker has answered for a minute, and disconnects."""

    async def check(self) -> str:
        """Docker answers."""
        return await self._docker_answers()

    async def apply(self, report: Report) -> None:
        """Hold the session."""
        name = self._node.name
        users = await self._touch.logged_in(name)
        if users:
            report({"text": f"logged in there: {', '.join(users)}"})
            if self._arguments.get("unattended") is True:
                raise ProcedureError(
                    f"{', '.join(users)} is logged in on {name}: unattended, nobody's desktop is taken.",
                    f"Ask them, or run it yourself: tierdeck recover {name}",
                )
        await self._context.confirm()
        async with self._touch.desktop(name) as still_open:
            report({"text": "desktop session open; waiting for Docker"})

            async def look() -> str:
                try:
                    still_open()
                except ReachError as error:
                    raise ProcedureError(error.message, error.advice) from error
                return f"Docker {await self._docker()} answers"

            await self._until(DOCKER_BACK, "waiting for Docker", report, look)
            await self._hold(report, look)

    async def _hold(self, report: Report, look: Callable[[], Awaitable[str]]) -> None:
        """Docker has to go on answering for a while, or the session was let go too early."""
        since = self._clock.now().mono
        while (held := self._clock.now().mono - since) < HOLD:
            try:
                await look()
            except (ReachError, TimeoutError):
                since = self._clock.now().mono
            words = f"Docker has answered for {held:.0f} of {HOLD:.0f} s"
            report({"text": words, "gate": "hold", "waited_s": round(held, 1), "progress": min(1.0, held / HOLD)})
            await self._clock.sleep(LOOK)

    async def verify(self, report: Report) -> str:
        """Docker answers though the session is disconnected."""
        return f"{await self._docker_back(report)}; the session is disconnected, not logged off"


class WaitForDocker(Rung):
    """Waits until Docker answers; a machine that was just woken may take a while."""

    async def check(self) -> str:
        """Docker answers."""
        return await self._docker_answers()

    async def apply(self, report: Report) -> None:
        """Nothing to be done but to wait."""

    async def verify(self, report: Report) -> str:
        """Docker answers."""
        limit = self._arguments.get("limit", DOCKER_BACK)
        return await self._docker_back(report, float(limit) if isinstance(limit, int | float) else DOCKER_BACK)


class WaitForKubernetes(Rung):
    """Waits until Kubernetes calls the node ready, so that what its pods do is known."""

    async def check(self) -> str:
        """It is always asked."""
        return ""

    async def apply(self, report: Report) -> None:
        """Nothing to be done but to wait."""

    async def verify(self, report: Report) -> str:
        """What runs there can be seen."""

        async def look() -> str:
            with self._context.outages.watched():
                found = await (await self._context.runtime(self._node.name, KUBERNETES)).workloads()
            return f"{self._node.name} is ready, with {len(found)} workloads"

        return await self._until(DOCKER_BACK, "waiting for Kubernetes", report, look)


RUNG_KINDS: Final[Mapping[str, Callable[[Step, Context], StepKind]]] = {
    "restart_docker": RestartDocker,
    "wake": WakeNode,
    "desktop_session": DesktopSession,
    "wait_docker": WaitForDocker,
    "wait_kubernetes": WaitForKubernetes,
}
