"""The real sources behind the poller: endpoints, machines with their workloads, GPUs, procedures.

None raises for what the outside does: every failure is a reading with its trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from random import Random
from typing import Final
from urllib.parse import urlsplit

from backends.clock import Clock
from backends.cluster.inventory import Inventory
from backends.cluster.reading import (
    Device,
    EndpointReading,
    Facts,
    FactsReading,
    Gpu,
    GpuReading,
    MaintenanceReading,
    ProbeResult,
    ProcedureReading,
    ProcedureState,
    Progress,
    ReachReading,
    Reading,
    Trouble,
    Workload,
    WorkloadReading,
)
from backends.cluster.tables import Endpoint, Node
from backends.cluster.words import VERDICT_OF, Cause, Verdict
from backends.engines.canary import loaded_model, muted, one_token
from backends.engines.engine import Engine, carried, stays_deep
from backends.engines.http import Http
from backends.engines.target import Target
from backends.errors import ReachError, SecretError, SshError, TierdeckError
from backends.poller import backoff
from backends.reach.reaches import Reaches
from backends.secrets import Secrets

DEEP_EVERY: Final = 5
"""Every how many probes models are asked for, too."""

CLOSED: Final = frozenset({Cause.REFUSED, Cause.TIMEOUT, Cause.UNREACHABLE})
"""What an endpoint shows from here that a firewall, or a loopback bind, keeps for its own node."""

MACHINE_INTERVAL: Final = 2.0
"""Seconds between two looks at a node: at its workloads (one list call), at its GPUs."""

LOOKS_A_SECOND: Final = 20
"""How many nodes are looked at in a second, of each kind: where there are more of them, each waits longer."""

MACHINE_BACKOFF: Final = 5.0
"""Seconds before a node that could not be reached is tried again; doubled up to a minute."""

GPU_PAUSE: Final = 10.0
"""Seconds before a GPU stream that ended is opened anew."""

FACTS_INTERVAL: Final = 60.0
"""Seconds between two questions for what a node runs on: one command."""

WINDOWS_FACTS_INTERVAL: Final = 300.0
"""The same where that command is a PowerShell."""

PROCEDURE_INTERVAL: Final = 1.0
"""Seconds between two looks at the journals; only those that grew are read."""


async def target_of(endpoint: Endpoint, inventory: Inventory, reaches: Reaches, secrets: Secrets) -> Target:
    """An endpoint as it is asked from here: its key resolved, its address as this machine reaches it."""
    key = await secrets.resolve(endpoint.api_key, polling=True) if endpoint.api_key else None
    url = await reaches.resolve_url(endpoint)
    metrics = await reaches.resolve_url(endpoint, endpoint.metrics_url) if endpoint.metrics_url else None
    forwarded = urlsplit(url) if endpoint.via is not None and url != endpoint.url else None
    return Target(
        endpoint.url if forwarded else url,
        endpoint.engine,
        timeout=inventory.timeout(endpoint),
        slow=inventory.slow(endpoint),
        key=key,
        model=endpoint.model,
        metrics_url=metrics,
        via=(forwarded.hostname or "127.0.0.1", forwarded.port or 80) if forwarded else None,
    )


class EndpointSource:
    """Probes one endpoint: shallow as a rule, deep now and then, slower while it stays down."""

    def __init__(
        self,
        endpoint: Endpoint,
        inventory: Inventory,
        engine: Engine,
        http: Http,
        target: Callable[[Endpoint], Awaitable[Target]],
        clock: Clock,
        chance: Random,
        is_down: Callable[[str], bool] = lambda endpoint: True,
        detour: Callable[[Endpoint], Awaitable[Target | None]] | None = None,
    ) -> None:
        self._detour = detour
        self._shut = 0
        self._reached = False
        self._open_there = False
        self.key = endpoint.name
        self.topics = (endpoint.name, endpoint.node) if endpoint.node else (endpoint.name,)
        self._endpoint = endpoint
        self._inventory = inventory
        self._engine = engine
        self._http = http
        self._target = target
        self._clock = clock
        self._chance = chance
        self._is_down = is_down
        self._always_deep = endpoint.name in inventory.check_named
        self._sang: float | None = None
        self._mute = ""
        self._count = 0
        self._failures = 0
        self._last: ProbeResult | None = None
        self._last_deep: ProbeResult | None = None
        self._progress: Progress | None = None

    async def read(self) -> tuple[Sequence[Reading], float]:
        """One probe, and the seconds until the next."""
        deep = self._always_deep or self._count % DEEP_EVERY == 0 or (self._last is not None and stays_deep(self._last))
        light = not deep and self._counts
        self._count += 1
        result = await self._sung(await self._probe(deep, light))
        if deep or light:
            self._progress = result.progress
        result = result if deep else carried(result, self._last_deep)
        self._last = result
        if deep:
            self._last_deep = result
        self._failures = self._failures + 1 if VERDICT_OF[result.cause] is Verdict.DOWN else 0
        pause = self._inventory.interval(self._endpoint)
        if self._is_down(self.key):
            pause = backoff(pause, self._failures, self._inventory.defaults.down_after, self._chance)
        if result.retry_after is not None:
            pause = max(pause, min(result.retry_after, 3600.0))
        limit = self._inventory.timeout(self._endpoint) * (2 if self._shut else 1)
        return [EndpointReading(self.key, self._clock.now(), result, pause, limit)], pause

    async def _sung(self, result: ProbeResult) -> ProbeResult:
        """The result, but STALLED where one token was asked for and none came; then each probe asks until one does."""
        every, now = self._endpoint.canary, self._clock.now().mono
        if every is None:
            return result
        if self._mute or self._sang is None or now - self._sang >= every:
            model = loaded_model(self._endpoint.engine, carried(result, self._last_deep))
            if model is not None:
                self._sang = now
                try:
                    self._mute = await one_token(self._http, await self._target(self._endpoint), model)
                except TierdeckError:  # then nothing is known of its tokens, and the probe said why
                    self._mute = ""
        return muted(result, self._mute)

    @property
    def _counts(self) -> bool:
        """Whether its counters are asked for at every turn: its own instead of its health call (which deep probes make
        still), those of another address besides it, while there is work."""
        own = self._endpoint.metrics_url is None
        return self._progress is not None and (own or self._progress.works)

    async def _probe(self, deep: bool, light: bool) -> ProbeResult:
        limit = self._inventory.timeout(self._endpoint)
        try:
            async with asyncio.timeout(limit):
                target = await self._target(self._endpoint)
        except SecretError as error:
            return ProbeResult(Cause.CONFIG, str(error))
        except ReachError as error:
            way = "SSH" if self._endpoint.via == "ssh" else "Kubernetes"
            return ProbeResult(Cause.UNREACHABLE, f"through {way}: {error.message}")
        except TimeoutError:
            kubernetes = self._endpoint.via == "kubernetes"
            what = "no answer of its cluster's API" if kubernetes else f"no SSH connection to {self._endpoint.node}"
            return ProbeResult(Cause.TIMEOUT, f"{what} within {limit:.3g} s")
        try:
            return await self._seen_there(await self._engine.probe(self._http, target, deep=deep, light=light))
        except ReachError as error:
            return ProbeResult(Cause.UNREACHABLE, str(error))

    async def _seen_there(self, result: ProbeResult) -> ProbeResult:
        """The result, but CONFIG where it is closed from here and answers on its node: no retry will help."""
        if result.cause not in CLOSED:
            self._shut, self._reached, self._open_there = 0, True, False
            return result
        self._shut += 1
        if self._is_to_be_seen_there(result.cause):
            self._open_there = await self._answers_there()
        if not self._open_there:
            return result
        words = f'answers on {self._endpoint.node}, but is closed from here: open its port, or say via = "ssh"'
        return ProbeResult(Cause.CONFIG, f"{words} ({result.evidence})")

    def _is_to_be_seen_there(self, cause: Cause) -> bool:
        """Whether its node is asked: from the first failure on now and then, and while it answers there each time.

        One that has answered from here and now says nothing may have lost a packet, and is given some tries first.
        """
        patient = self._reached and cause is not Cause.REFUSED
        first = max(2, self._inventory.defaults.down_after) if patient else 1
        return self._open_there or (self._shut >= first and (self._shut - first) % DEEP_EVERY == 0)

    async def _answers_there(self) -> bool:
        if self._detour is None:
            return False
        try:
            async with asyncio.timeout(self._inventory.timeout(self._endpoint)):
                target = await self._detour(self._endpoint)
                if target is None:
                    return False
                found = await self._engine.probe(self._http, target, deep=False)
        except (TierdeckError, TimeoutError):  # then nothing is known of it, and the first result stands
            return False
        return VERDICT_OF[found.cause] is not Verdict.DOWN


def looked_at_every(nodes: int) -> float:
    """Seconds between two looks at a node, where so many are looked at."""
    return max(MACHINE_INTERVAL, nodes / LOOKS_A_SECOND)


class MachineSource:
    """Looks at one node: can it be touched, and what runs on it."""

    def __init__(
        self,
        node: Node,
        look: Callable[[], Awaitable[tuple[tuple[Workload, ...], tuple[Device, ...]]]],
        clock: Clock,
        *,
        interval: float = MACHINE_INTERVAL,
    ) -> None:
        self.key = f"machine {node.name}"
        self.topics = (node.name,)
        self._node = node
        self._look = look
        self._clock = clock
        self._interval = interval
        self._failures = 0

    async def read(self) -> tuple[Sequence[Reading], float]:
        """One look, and the seconds until the next."""
        name = self._node.name
        try:
            workloads, devices = await self._look()
        except SshError as error:
            return [ReachReading(name, self._clock.now(), trouble_of(error))], self._slower(60.0)
        except TierdeckError as error:
            now = self._clock.now()
            return [ReachReading(name, now), WorkloadReading(name, now, trouble=trouble_of(error))], self._slower(30.0)
        except TimeoutError:
            late = Trouble(f"{name} did not answer in time.", "It may hang; u asks again.")
            return [WorkloadReading(name, self._clock.now(), trouble=late)], self._slower(60.0)
        self._failures = 0
        now = self._clock.now()
        return [ReachReading(name, now), WorkloadReading(name, now, workloads, devices=devices)], self._interval

    def _slower(self, longest: float) -> float:
        self._failures += 1
        return float(min(longest, MACHINE_BACKOFF * 2.0 ** min(self._failures - 1, 5)))


class FactsSource:
    """Asks a node now and then what it runs on; where that fails its other sources say why."""

    def __init__(self, node: Node, facts: Callable[[], Awaitable[Facts]], clock: Clock) -> None:
        self.key = f"facts {node.name}"
        self.topics = (node.name,)
        self._node = node
        self._facts = facts
        self._clock = clock

    async def read(self) -> tuple[Sequence[Reading], float]:
        """The facts, and the seconds until they are asked for again."""
        pause = WINDOWS_FACTS_INTERVAL if self._node.os == "windows" else FACTS_INTERVAL
        try:
            facts = await self._facts()
        except (TierdeckError, TimeoutError):
            return [], pause
        return [FactsReading(self._node.name, self._clock.now(), facts)], pause


class GpuStream:
    """Listens to one node's GPUs."""

    pause = GPU_PAUSE

    def __init__(self, node: str, stream: Callable[[], AsyncGenerator[tuple[Gpu, ...], None]], clock: Clock) -> None:
        self.key = f"gpus {node}"
        self.topics = (node,)
        self._node = node
        self._stream = stream
        self._clock = clock

    async def readings(self) -> AsyncGenerator[Reading, None]:
        """A reading for each sample; a failure is the last one."""
        try:
            async with aclosing(self._stream()) as samples:
                async for gpus in samples:
                    yield GpuReading(self._node, self._clock.now(), gpus)
        except TierdeckError as error:
            yield GpuReading(self._node, self._clock.now(), trouble=trouble_of(error))


class StateSource:
    """Looks at what this machine keeps: the journals, and what a person put under maintenance."""

    key = "procedures"
    topics = ("procedures", "maintenance")

    def __init__(
        self,
        known: Callable[[], tuple[ProcedureState, ...]],
        maintained: Callable[[], dict[str, float]],
        clock: Clock,
    ) -> None:
        self._known = known
        self._maintained = maintained
        self._clock = clock

    async def read(self) -> tuple[Sequence[Reading], float]:
        """All procedures and all maintenance; the files are read in a thread."""
        procedures, maintained = await asyncio.to_thread(lambda: (self._known(), self._maintained()))
        now = self._clock.now()
        return [ProcedureReading(now, procedures), MaintenanceReading(now, maintained)], PROCEDURE_INTERVAL


def trouble_of(error: TierdeckError) -> Trouble:
    """An error as a trouble to show."""
    return Trouble(error.message, error.advice)
