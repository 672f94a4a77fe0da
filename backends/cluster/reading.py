"""Readings: what one source said, or how it failed, with the time it was taken.

Readings are the only way news enters the snapshot: `fold(inventory, snapshot, reading)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.cluster.noted import Notice, Scan, Volume
from backends.cluster.words import KUBERNETES, Cause


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment on both clocks: `wall` (Unix seconds) for people, `mono` (seconds) for ages."""

    wall: float
    mono: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a source could not be read: what happened, and what to do next."""

    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as an engine names it; sizes in MiB; None is "not known"."""

    name: str
    loaded: bool | None = None
    size_mib: float | None = None
    vram_mib: float | None = None
    context: int | None = None
    quantisation: str | None = None


@dataclass(frozen=True, slots=True)
class ModelCount:
    """What a gateway counted for one model since its start."""

    name: str
    requests: float = 0.0
    tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """An engine's own counters since its start, and what it does now: requests running and waiting, KV-cache share.

    `steps` are decoding steps: llama.cpp counts the tokens of an answer only when that ends, but its steps at once.
    `signs` is whatever else moves while it works. `first_s` and `first_n` sum up and count times to a first token.
    """

    tokens: float | None = None
    running: int | None = None
    waiting: int | None = None
    kv_used: float | None = None
    prompt: float | None = None
    steps: float | None = None
    signs: float | None = None
    first_s: float | None = None
    first_n: float | None = None
    models: tuple[ModelCount, ...] = ()

    @property
    def works(self) -> bool:
        """Whether it has requests."""
        return bool(self.running or self.waiting)

    @property
    def pulse(self) -> tuple[float | None, ...]:
        """What cannot stand still while it works."""
        return self.tokens, self.prompt, self.steps, self.signs, self.kv_used


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe found: a named cause with its evidence, and what else the engine said.

    `latency` is the health call's, in seconds. `models` is None when they were not asked for or not said.
    `retry_after` (seconds) accompanies RATE_LIMITED.
    """

    cause: Cause
    evidence: str
    latency: float | None = None
    models: tuple[ModelInfo, ...] | None = None
    version: str | None = None
    progress: Progress | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class EndpointReading:
    """One probe of one endpoint; `interval` is the seconds until the next, backoff counted in.

    `limit` is the seconds which that one may take, so that who hangs for all of it is not taken for unread.
    """

    endpoint: str
    at: Instant
    result: ProbeResult
    interval: float
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class ChatReading:
    """What became of one prompt sent from here: OK and its pace, or the cause and words of its failure.

    `retry_after` (seconds) accompanies RATE_LIMITED; `first_s` are the seconds until the first token.
    """

    endpoint: str
    at: Instant
    cause: Cause = Cause.OK
    evidence: str = ""
    retry_after: float | None = None
    tokens_per_s: float | None = None
    first_s: float | None = None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds GPU memory; `container` is the id found in its cgroup, "" in none, None where not told."""

    pid: int
    used_mib: float | None
    container: str | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver reports it; None where the driver does not say, or its processes were not told."""

    index: int
    name: str
    uuid: str | None = None
    memory_total_mib: float | None = None
    memory_used_mib: float | None = None
    utilization_pct: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    processes: tuple[GpuProcess, ...] | None = None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """All GPUs of one node, or why they could not be read."""

    node: str
    at: Instant
    gpus: tuple[Gpu, ...] = ()
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """How a container starts its model: where the file lies outside it, and the settings it is given."""

    file: str | None = None
    gpu_layers: int | None = None
    context: int | None = None
    batch: int | None = None
    flash: bool | None = None
    parallel: int | None = None
    unified: bool | None = None
    ubatch: int | None = None
    cache_k: str | None = None
    cache_v: str | None = None
    cpu_moe: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """A container, native service or Deployment of a node, in one vocabulary over all runtimes.

    `state` is one of created, starting, running, restarting, paused, exited, dead, missing (starting: it will run
    soon, by itself; created: it would, but for what `error` says); `health` is starting, healthy, unhealthy or None
    where nothing checks it. `started_at` is Unix seconds. `digest` is its image's content address,
    `arguments` its command line with secrets blotted out, `mounts` are "source:target". `forbidden` is what we have no
    right to do to it ("start", "logs"), each with the right in words. `surges` says that an update starts a second
    beside the first, `update` how far one is that is not through. `scaling` tells what changes how many of it there
    are, by what figures. `asks` is how many it takes of each of its node's devices.
    """

    name: str
    runtime: str
    state: str
    id: str = ""
    image: str = ""
    health: str | None = None
    started_at: float | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    gpu: bool = False
    restart_policy: str = "no"
    ports: tuple[int, ...] = ()
    launch: Launch | None = None
    digest: str = ""
    arguments: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()
    surges: bool = False
    update: str = ""
    scaling: str = ""
    volumes: tuple[Volume, ...] = ()
    notices: tuple[Notice, ...] = ()
    scans: tuple[Scan, ...] = ()
    asks: tuple[tuple[str, int], ...] = ()

    def forbids(self, verb: str) -> str:
        """The right that we lack for it, in words; "" where we have it, or nobody told."""
        return dict(self.forbidden).get(verb, "")

    @property
    def running(self) -> bool:
        """Whether its processes exist."""
        return self.state == "running"

    @property
    def returns(self) -> bool:
        """Whether its runtime starts it again by itself after its machine was away."""
        return self.runtime == KUBERNETES or self.restart_policy not in ("no", "")

    @property
    def astir(self) -> bool:
        """Whether its processes exist, or are about to."""
        return self.state in ("running", "restarting", "starting")


@dataclass(frozen=True, slots=True)
class Device:
    """Hardware of a node that its runtime hands out by numbers: how many there are, may be asked for and are.

    `holders` are those who asked, each with its number.
    """

    name: str
    capacity: int
    allocatable: int
    requested: int = 0
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadReading:
    """All workloads of one node's runtimes and what these hand out, or why they could not be read."""

    node: str
    at: Instant
    workloads: tuple[Workload, ...] = ()
    trouble: Trouble | None = None
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine runs on; None is "not told". `booted_at` is Unix seconds."""

    booted_at: float | None = None
    kernel: str | None = None
    driver: str | None = None
    docker: str | None = None


@dataclass(frozen=True, slots=True)
class FactsReading:
    """The facts of one node."""

    node: str
    at: Instant
    facts: Facts


@dataclass(frozen=True, slots=True)
class ReachReading:
    """Whether a node can be touched at all (locally or by SSH)."""

    node: str
    at: Instant
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class StepState:
    """One step of an open procedure as its journal tells it; `state` is waiting, running, done, skipped, failed.

    `progress` goes from 0 to 1 and is None where nobody knows; with `estimate` it is taken from past starts.
    """

    label: str
    state: str
    detail: str = ""
    started: float | None = None
    ended: float | None = None
    progress: float | None = None
    estimate: bool = False


@dataclass(frozen=True, slots=True)
class ProcedureState:
    """A procedure as its journal tells it; `state` is running, asking, done, failed, cancelled, halted or lost."""

    id: str
    kind: str
    node: str
    title: str
    owner: str
    state: str
    started: float
    steps: tuple[StepState, ...] = ()
    targets: tuple[str, ...] = ()
    question: str = ""

    @property
    def open(self) -> bool:
        """Whether it still runs, or waits for an answer."""
        return self.state in ("running", "asking")


@dataclass(frozen=True, slots=True)
class ProcedureReading:
    """All procedures known on this machine, newest first."""

    at: Instant
    procedures: tuple[ProcedureState, ...]


@dataclass(frozen=True, slots=True)
class MaintenanceReading:
    """Until when (Unix seconds) a person put each node or endpoint under maintenance."""

    at: Instant
    until: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model will take of its node's GPUs, driver included: by its header and settings, or as its engine said."""

    endpoint: str
    model: str
    mib: float
    certainty: str


@dataclass(frozen=True, slots=True)
class PredictionReading:
    """All predictions there are by now."""

    at: Instant
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """The passing of time, from which staleness and shown ages come."""

    at: Instant


Reading = (
    EndpointReading
    | ChatReading
    | GpuReading
    | WorkloadReading
    | FactsReading
    | ReachReading
    | ProcedureReading
    | MaintenanceReading
    | PredictionReading
    | Tick
)
