"""The world of one cluster, opened as a whole: what the console and the command line look through."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from backends.clock import Clock, SystemClock
from backends.cluster.files import Loaded
from backends.cluster.fold import empty, fold_all
from backends.cluster.reading import (
    Device,
    Facts,
    Gpu,
    GpuReading,
    MaintenanceReading,
    ProcedureState,
    Reading,
    Workload,
)
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Check, Endpoint, Node
from backends.cluster.words import KUBERNETES, NATIVE
from backends.engines.engine import Engine
from backends.engines.http import Http
from backends.engines.registry import ENGINES
from backends.engines.target import Target
from backends.errors import ReachError, TierdeckError
from backends.figures import Figures
from backends.gpus.exported import read_exported, stream_exported
from backends.gpus.source import read_once, stream
from backends.library import Found, Library
from backends.maintenance import Maintenance
from backends.observed import ObservedSource
from backends.paces import Paces
from backends.planned import PlannedSource, observed
from backends.poller import Source, Stream
from backends.procedures import events as procedure_events
from backends.procedures import journal as journals
from backends.procedures.commands import Procedures
from backends.procedures.events import StepEvent
from backends.procedures.plan import Plan
from backends.prompting import Prompting
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches
from backends.reach.runtime import Runtime
from backends.secrets import Secrets
from backends.sources import (
    EndpointSource,
    FactsSource,
    GpuStream,
    MachineSource,
    StateSource,
    looked_at_every,
    target_of,
    trouble_of,
)

if TYPE_CHECKING:
    from backends.cluster.deploying import Spec
    from backends.cluster.faults import Diagnosis
    from backends.drill import Proof
    from backends.memory.settings import Settings
    from backends.memory.spoken import Buffers
    from backends.procedures.demand import ColdStart
    from backends.reach.model_files import ModelFiles
    from backends.reach.whole_file import WholeFile

LOOK_LIMIT: Final = 20.0
"""Seconds a look at one machine may take in all; longer than the limits inside, which can say what it was that hung."""

IDLE_INTERVAL: Final = 15.0
"""Seconds between two looks at a node on which nothing of ours runs."""


class World(Prompting):
    """Everything outside, for one inventory; closes all it opened."""

    def __init__(self, loaded: Loaded, here: str | None, state_dir: Path, *, clock: Clock | None = None) -> None:
        self.inventory = loaded.inventory
        self._loaded = loaded
        self.here = here
        self.procedures = Procedures(state_dir, loaded.path)
        self.maintenance = Maintenance(state_dir)
        self.paces = Paces(state_dir, loaded.inventory.name)
        self.figures = Figures(state_dir)
        self._clock = clock or SystemClock()
        self._chance = Random()
        self._stack = AsyncExitStack()
        self._secrets = Secrets()
        self._http: Http
        self._reaches: Reaches

    async def __aenter__(self) -> Self:
        self._http = await self._stack.enter_async_context(Http())
        self._reaches = await self._stack.enter_async_context(Reaches(self.inventory, self.here, self._secrets))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def adopt(self, loaded: Loaded) -> None:
        """Go on with a changed inventory; who polls asks for its sources and streams anew."""
        self.inventory, self._loaded = loaded.inventory, loaded
        await self._reaches.adopt(loaded.inventory)

    def sources(self, is_down: Callable[[str], bool] = lambda endpoint: True) -> list[Source]:
        """What is polled: machines before endpoints, so that a container's start is known before its refusals.

        `is_down` tells what the snapshot holds of an endpoint: one that only starts is not asked less often.
        """
        facts = [FactsSource(node, partial(self._facts, node), self._clock) for node in self._touched()]
        return [*self._at_once(is_down), *facts]

    def _at_once(self, is_down: Callable[[str], bool] = lambda endpoint: True) -> list[Source]:
        """What one look asks: all but what only tells of changes."""
        found: list[Source] = [self._machine(node) for node in self._touched()]
        found.append(StateSource(self.procedures.list, self.maintenance.read, self._clock))
        found += [self._endpoint(e, ENGINES[e.engine], is_down) for e in self.inventory.endpoints]
        found += [self._endpoint(check.lamp, self._check(check), is_down) for check in self.inventory.checks]
        return found

    def memory(self, seen: Callable[[], ClusterSnapshot]) -> list[Source]:
        """What predicts, from the latest snapshot, what models will take, and learns from what they took."""
        predicting = PlannedSource(self.inventory, seen, self.find_model, self._clock, self.figures)
        return [predicting, self.learning(seen)]

    def learning(self, seen: Callable[[], ClusterSnapshot]) -> Source:
        """What learns from the latest snapshot what models take, and keeps it for later starts."""
        return ObservedSource(self.inventory, seen, self._last_words, self._clock, self.figures)

    def streams(self) -> list[Stream]:
        """What tells by itself."""
        return [GpuStream(node.name, self._sampler(node), self._clock) for node in self._with_gpus()]

    def _touched(self) -> list[Node]:
        return [n for n in self.inventory.nodes if n.name == self.here or n.ssh is not None or n.kubernetes is not None]

    def _with_gpus(self) -> list[Node]:
        """The nodes whose GPUs are read: by their driver, or by what their Kubernetes cluster exports of them."""
        return [n for n in self.inventory.nodes if self._by_driver(n) or n.kubernetes is not None]

    def _by_driver(self, node: Node) -> bool:
        shelled = node.ssh is not None or node.name == self.here
        return node.gpus != "none" and (shelled or node.kubernetes is None)

    def _check(self, check: Check) -> Engine:
        from backends.checks import engine_of

        reach = self._reaches[check.node] if check.node else self._reaches.here
        return engine_of(check, reach, self._clock)

    def _endpoint(self, endpoint: Endpoint, engine: Engine, is_down: Callable[[str], bool]) -> EndpointSource:
        detour = self.detour if endpoint.url.startswith("http") else None
        return EndpointSource(
            endpoint, self.inventory, engine, self._http, self.target, self._clock, self._chance, is_down, detour
        )

    def _machine(self, node: Node) -> MachineSource:
        reach = self._reaches[node.name]
        busy = self.inventory.runs_containers(node) or reach.node.kubernetes or reach.services() is not None
        interval = looked_at_every(len(self._touched())) if busy else IDLE_INTERVAL
        return MachineSource(node, lambda: self._look(node), self._clock, interval=interval)

    async def _look(self, node: Node) -> tuple[tuple[Workload, ...], tuple[Device, ...]]:
        """All workloads of a node and what is handed out there; where there is nobody to ask, that it answers."""
        reach = self._reaches[node.name]
        workloads: list[Workload] = []
        devices: list[Device] = []
        async with asyncio.timeout(LOOK_LIMIT):
            runtimes = await reach.runtimes()
            if not runtimes or any(runtime.kind != KUBERNETES for runtime in runtimes):  # an API needs no SSH
                await reach.connected()
            for runtime in runtimes:
                workloads += await runtime.workloads()
                devices += await runtime.devices()
            if not runtimes and not reach.is_here:
                await reach.shell.run(["hostname"], timeout=LOOK_LIMIT)
        return tuple(workloads), tuple(devices)

    async def _facts(self, node: Node) -> Facts:
        """What a node runs on."""
        from backends.facts import read_facts

        reach = self._reaches[node.name]
        async with asyncio.timeout(LOOK_LIMIT):
            await reach.connected()
            return await read_facts(node, self.inventory, reach, timeout=LOOK_LIMIT)

    def _sampler(self, node: Node) -> Callable[[], AsyncGenerator[tuple[Gpu, ...], None]]:
        async def samples() -> AsyncGenerator[tuple[Gpu, ...], None]:
            reach = self._reaches[node.name]
            exporter = None if self._by_driver(node) else reach.exporter()
            every = looked_at_every(len(self._with_gpus()))
            sampled = stream(node, reach.shell, every) if exporter is None else stream_exported(node, exporter)
            async with aclosing(sampled) as found:
                async for gpus in found:
                    yield gpus

        return samples

    async def target(self, endpoint: Endpoint) -> Target:
        """An endpoint as it is asked from here: its key resolved, its address as this machine reaches it."""
        return await target_of(endpoint, self.inventory, self._reaches, self._secrets)

    async def find_model(self, name: str, node: str | None = None) -> Found:
        """A model's header, of whatever has it; TierdeckError where nothing does."""
        return await Library(self.inventory, self.here, self._reaches, self._http, node).find(name)

    async def dry_run(self, node: str, file: str, settings: Settings) -> tuple[Buffers, ...]:
        """What llama.cpp on a node says that a model would take of its devices; ReachError where it cannot be asked."""
        from backends.dryrun import dry_run, starting

        if busy := starting(self.inventory, await self.look(), node):
            raise ReachError(
                f"{busy} starts on {node}: another process on its GPU could deadlock both.",
                "Ask again when it has started, or do without --dry-run-on.",
            )
        return await dry_run(node, self._reaches[node].shell, file, settings)

    async def detour(self, endpoint: Endpoint) -> Target | None:
        """An endpoint as its own node asks it, where the SSH connection to that stands and is not its way anyhow."""
        if endpoint.node is None or endpoint.via is not None or not self._reaches[endpoint.node].stands:
            return None
        return await self.target(endpoint.model_copy(update={"via": "ssh"}))

    def logs(self, node: str, workload: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """The log of a container or service (systemd:NAME), followed."""
        return self._lines(node, workload, 500, follow=True)

    def _last_words(self, node: str, workload: str, most: int) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        return self._lines(node, workload, most, follow=False)

    @asynccontextmanager
    async def _lines(
        self, node: str, workload: str, most: int, *, follow: bool
    ) -> AsyncGenerator[AsyncIterator[str], None]:
        runtime, name = await self._runtime_of(self._reaches[node], workload)
        async with runtime.logs(name, tail=most, follow=follow) as lines:
            yield lines

    async def _runtime_of(self, reach: NodeReach, workload: str) -> tuple[Runtime, str]:
        manager, separator, name = workload.partition(":")
        services = reach.services()
        if separator and manager in NATIVE and services is not None:
            return services, name
        kubernetes = reach.kubernetes()
        if kubernetes is not None and "/" in workload:
            return kubernetes, workload
        return await reach.runtime(), workload

    async def gateway_file(self) -> bytes | None:
        """What the gateway's configuration holds now; TierdeckError where it cannot be read."""
        return await (await self._gateway_file()).read()

    async def _gateway_file(self) -> WholeFile:
        from backends.procedures.pushing import gateway_file

        async def runtime(node: str, kind: str) -> Runtime:
            return await self._reaches[node].runtime()

        return await gateway_file(self.inventory, self.here, lambda node: self._reaches[node].shell, runtime)

    async def diagnose(self, node: str) -> tuple[Diagnosis, ClusterSnapshot]:
        """What is wrong with a node, and the cluster as it was seen meanwhile."""
        from backends.diagnosis import examine

        return await examine(self.inventory.node_named[node], self.inventory, self._reaches, self.look())

    async def plan_reboot(self, node: str) -> Plan:
        """What would reboot a node, after a look at everything; TierdeckError where it cannot be."""
        from backends.procedures.booted import boot_mark
        from backends.procedures.leaving import prepare_leaving
        from backends.procedures.reboot import plan_reboot

        named = boot_mark(self.inventory.node_named[node], self._reaches[node].shell)
        mark, snapshot = await asyncio.gather(named, self.look())
        leaving = await prepare_leaving(self.inventory, snapshot, node, mark, self.gateway_file)
        return plan_reboot(self.inventory, snapshot, node, mark, leaving)

    async def drill(self, node: str) -> tuple[Proof, ...]:
        """Whether each rung of a node's ladder could be climbed; nothing is climbed."""
        from backends.drill import drill

        named, pins = self.inventory.node_named[node], self.procedures.state_dir / "rdp"
        return await drill(named, self.inventory, self._reaches, self._secrets, pins)

    async def plan_deploy(self, spec: Spec, *, force: bool = False, roll_back: bool = False) -> Plan:
        """What would deploy a model, after a look at everything; ProcedureError where it cannot be."""
        from backends.deploying import Asked, prepare
        from backends.reach.model_files import model_files

        @asynccontextmanager
        async def files(source: str, token: str | None) -> AsyncGenerator[ModelFiles, None]:
            secret = await self._secrets.resolve(token, polling=False) if token else None
            yield model_files(source, self._reaches, secret, os.environ)

        asked = Asked(
            lambda node: self._reaches[node].runtime(), lambda node: self._reaches[node].shell, files, self.find_model,
            self._gateway_file,
            lambda node: self._reaches[node].cluster(),
        )  # fmt: skip
        after: Literal["hold", "rollback"] = "rollback" if roll_back else "hold"
        return await prepare(spec, self._loaded, await self.look(), asked, force=force, on_failure=after)

    def plan_up(self, word: str, snapshot: ClusterSnapshot) -> Plan:
        """What would start a model that is on demand: by the name of its endpoint, its container or itself."""
        return self.cold_start(word, snapshot).plan

    def cold_start(self, word: str, snapshot: ClusterSnapshot) -> ColdStart:
        """The same, and how long it would take; ProcedureError where it would not fit."""
        from backends.procedures.context import residence
        from backends.procedures.demand import ColdStart, found, plan_up
        from backends.procedures.learned import Learned
        from backends.procedures.used import Used

        state_dir = self.procedures.state_dir
        learned, endpoint = Learned(state_dir), found(self.inventory, word)
        plan = plan_up(
            self.inventory,
            snapshot,
            endpoint,
            need=lambda node, name: learned.expect(node, name).mib,
            used=Used(state_dir).read(),
        )
        return ColdStart(endpoint.name, plan, learned.expect(plan.node, residence(endpoint)).seconds)

    async def start(self, plan: Plan, *, take_over: bool = False) -> str:
        """Start a procedure in a process of its own; its id. StaleLease where `take_over` would help."""
        return await self.procedures.start(plan, take_over=take_over)

    def follow(self, procedure: str) -> AsyncIterator[StepEvent]:
        """A procedure's journal, from its first event on."""
        return journals.follow(journals.journal_path(self.procedures.state_dir, procedure))

    @staticmethod
    def fold_event(state: ProcedureState | None, event: StepEvent) -> ProcedureState | None:
        """A procedure's state after one more event."""
        return procedure_events.fold(state, event)

    async def control(self, procedure: str, word: str) -> None:
        """Cancel or pause a procedure, or answer its question."""
        if word == "cancel":
            await self.procedures.cancel(procedure)
        elif word == "pause":
            await self.procedures.pause(procedure)
        else:
            await self.procedures.answer(procedure, word)

    async def look(self) -> ClusterSnapshot:
        """One pass over everything, side by side: the first reading of each source gives its verdict."""
        gathered = await asyncio.gather(
            *(source.read() for source in self._at_once()), *(self._gpus_once(node) for node in self._with_gpus())
        )
        readings = [reading for found, _ in gathered for reading in found]
        readings.append(MaintenanceReading(self._clock.now(), self.maintenance.read()))
        seen = fold_all(self.inventory, empty(self.inventory, self.here), readings)
        await asyncio.to_thread(self.figures.refresh)
        return replace(seen, predicted=tuple(observed(self.inventory, seen, self.figures)))

    async def _gpus_once(self, node: Node) -> tuple[list[Reading], float]:
        reach = self._reaches[node.name]
        exporter = None if self._by_driver(node) else reach.exporter()
        try:
            if exporter is None:
                gpus = await read_once(node, reach.shell, timeout=LOOK_LIMIT)
            elif (exported := await read_exported(node, exporter)) is not None:
                gpus = exported
            else:
                return [], 0.0
        except TierdeckError as error:
            return [GpuReading(node.name, self._clock.now(), trouble=trouble_of(error))], 0.0
        except TimeoutError:
            late = ReachError(
                f"{node.name}: its GPUs were not read within {LOOK_LIMIT:.0f} s.", "Does its driver hang?"
            )
            return [GpuReading(node.name, self._clock.now(), trouble=trouble_of(late))], 0.0
        return [GpuReading(node.name, self._clock.now(), gpus)], 0.0


async def survey(loaded: Loaded, here: str | None, state_dir: Path) -> ClusterSnapshot:
    """One pass over everything, as `tierdeck status` makes it."""
    async with World(loaded, here, state_dir) as world:
        return await world.look()
