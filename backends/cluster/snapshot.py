"""The snapshot: everything known about the cluster at one moment, frozen.

Timestamps and raw latencies take no part in equality; what panes draw of them (rounded ages, latency bands) does.
So two equal snapshots look the same, and cause no work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.cluster.reading import (
    Device,
    Facts,
    Gpu,
    Instant,
    ModelInfo,
    Prediction,
    ProcedureState,
    Progress,
    Trouble,
    Workload,
)
from backends.cluster.words import SERVING, Cause, Flaw, State, Verdict


@dataclass(frozen=True, slots=True)
class ModelRate:
    """What a gateway does for one model, per minute."""

    name: str
    requests: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Work:
    """What an endpoint works at, in one vocabulary over all engines; rounded as it is drawn, None where not told.

    `kv_pct` is the share of the KV cache in use, `first_ms` the time to the first token in milliseconds.
    """

    tokens_per_s: float | None = None
    running: int | None = None
    waiting: int | None = None
    kv_pct: int | None = None
    first_ms: float | None = None
    models: tuple[ModelRate, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """The work at one moment (`at`, seconds of the clock for ages), for a sparkline."""

    at: float
    tokens_per_s: float | None
    requests: int | None
    kv_pct: int | None


@dataclass(frozen=True, slots=True)
class Well:
    """All that can explain that an endpoint worked at one moment: its container, engine, models and machine.

    `troubles` are those of reaching the node, reading its GPUs and its containers ("" for none).
    """

    at: Instant | None = None
    workload: Workload | None = None
    version: str | None = None
    models: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    facts: Facts | None = None
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cooling:
    """Until when the router leaves an endpoint alone, and what made it do so."""

    until: Instant
    evidence: str


@dataclass(frozen=True, slots=True)
class EndpointState:
    """How one endpoint is, since when, and on what evidence.

    `fails` and `successes` count in a row towards the next verdict. `age` is the rounded number of seconds since
    the verdict changed, `unread` since the last reading where that is overdue (else None). `until` is when its
    MAINTENANCE ends (Unix seconds), `turned` when its cause was another one last. `progress` was counted at `counted`;
    `frozen` is since when it has work and nothing moves; `samples` are the latest, oldest first. `last_up` is how
    things were when it last was as it should be. Of prompts sent from here: `cooling`, when the
    latest `failed` (seconds of the clock for ages), and the `pace` of answers in tokens per second.
    """

    name: str
    verdict: Verdict = Verdict.UNKNOWN
    cause: Cause | None = None
    evidence: str = "no reading yet"
    latency_band: str = ""
    models: tuple[ModelInfo, ...] = ()
    version: str | None = None
    fails: int = 0
    successes: int = 0
    ever_up: bool = False
    age: int = 0
    unread: int | None = None
    until: float | None = None
    work: Work | None = None
    cooling: Cooling | None = None
    failed: tuple[float, ...] = field(default=(), compare=False)
    pace: float | None = field(default=None, compare=False)
    samples: tuple[Sample, ...] = field(default=(), compare=False)
    progress: Progress | None = field(default=None, compare=False)
    counted: Instant | None = field(default=None, compare=False)
    frozen: Instant | None = field(default=None, compare=False)
    latency: float | None = field(default=None, compare=False)
    taken: Instant | None = field(default=None, compare=False)
    since: Instant | None = field(default=None, compare=False)
    last_up: Well | None = field(default=None, compare=False)
    turned: Instant | None = field(default=None, compare=False)
    interval: float = field(default=0.0, compare=False)
    limit: float = field(default=0.0, compare=False)

    @property
    def serving(self) -> bool:
        """Whether it answers prompts now."""
        return self.cause in SERVING


@dataclass(frozen=True, slots=True)
class TierState:
    """How one tier is: `up` of `total` endpoints, those left out (OFF, MAINTENANCE) not counted."""

    name: str
    state: State
    up: int
    total: int


@dataclass(frozen=True, slots=True)
class Hold:
    """What the GPUs of its node tell of one running container, since it started (Unix seconds) or since we look.

    `ever`: one of its processes was seen on a GPU; `mib` is what they hold now (None: not told); `missing` is since
    when none is there. `low_mib` and `risen_mib` are the least that all GPUs held meanwhile, and the most above that;
    None where it ran already when we came.
    """

    started: float | None
    ever: bool = False
    mib: float | None = None
    missing: Instant | None = None
    low_mib: float | None = None
    risen_mib: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that answers, but not as it was meant to: on which evidence, and what to do about it."""

    flaw: Flaw
    endpoint: str
    evidence: str
    cure: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is known of one machine; each trouble stands beside the last good figures, `gpus_unread` tells their age."""

    name: str
    here: bool = False
    gpus: tuple[Gpu, ...] = ()
    gpus_trouble: Trouble | None = None
    gpus_unread: int | None = None
    workloads: tuple[Workload, ...] = ()
    devices: tuple[Device, ...] = ()
    workloads_trouble: Trouble | None = None
    reach_trouble: Trouble | None = None
    facts: Facts | None = None
    holds: Mapping[str, Hold] = field(default_factory=dict, compare=False)
    gpus_taken: Instant | None = field(default=None, compare=False)
    workloads_taken: Instant | None = field(default=None, compare=False)
    reach_taken: Instant | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TaskOutlook:
    """Who serves a task now (None: nobody), and who would next, in order."""

    now: str | None
    next: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """What the death of one node would leave: the tasks `lost`, and who would serve each (None: nobody), in words."""

    node: str
    lost: tuple[str, ...]
    tasks: Mapping[str, str | None]
    words: str


@dataclass(frozen=True, slots=True)
class Prognosis:
    """What the cluster can do: a state, a sentence, an outlook for each task, and `brief` for where room is scarce.

    `without` tells what would be left if the busiest node died; None where no node serves anything.
    """

    state: State
    summary: str
    tasks: Mapping[str, TaskOutlook]
    brief: str = ""
    without: Loss | None = None


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """The whole cluster at one moment."""

    name: str
    here: str | None
    endpoints: Mapping[str, EndpointState]
    tiers: tuple[TierState, ...]
    nodes: Mapping[str, NodeState]
    prognosis: Prognosis
    procedures: tuple[ProcedureState, ...] = ()
    maintenance: Mapping[str, float] = field(default_factory=dict)
    predicted: tuple[Prediction, ...] = ()
    findings: tuple[Finding, ...] = ()
    taken: Instant | None = field(default=None, compare=False)
