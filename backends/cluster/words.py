"""The words of health, each with one meaning everywhere: verdicts, causes, states, tasks and engines."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, get_args


class Verdict(StrEnum):
    """How an endpoint is."""

    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


class State(StrEnum):
    """How a tier, or the whole cluster, is."""

    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


class Cause(StrEnum):
    """Why an endpoint has its verdict."""

    OK = "OK"
    LOADING = "LOADING"
    SLEEPING = "SLEEPING"
    BUSY = "BUSY"
    STALLED = "STALLED"
    CONFIG = "CONFIG"
    RATE_LIMITED = "RATE_LIMITED"
    TIMEOUT = "TIMEOUT"
    REFUSED = "REFUSED"
    UNREACHABLE = "UNREACHABLE"
    DNS = "DNS"
    TLS = "TLS"
    RESET = "RESET"
    BAD_RESPONSE = "BAD_RESPONSE"
    STALE = "STALE"
    OFF = "OFF"
    MAINTENANCE = "MAINTENANCE"


VERDICT_OF: Final[dict[Cause, Verdict]] = {
    Cause.OK: Verdict.UP,
    Cause.LOADING: Verdict.DEGRADED,
    Cause.SLEEPING: Verdict.UP,
    Cause.BUSY: Verdict.DEGRADED,
    Cause.STALLED: Verdict.DOWN,
    Cause.CONFIG: Verdict.DEGRADED,
    Cause.RATE_LIMITED: Verdict.DEGRADED,
    Cause.TIMEOUT: Verdict.DOWN,
    Cause.REFUSED: Verdict.DOWN,
    Cause.UNREACHABLE: Verdict.DOWN,
    Cause.DNS: Verdict.DOWN,
    Cause.TLS: Verdict.DOWN,
    Cause.RESET: Verdict.DOWN,
    Cause.BAD_RESPONSE: Verdict.DOWN,
    Cause.STALE: Verdict.UNKNOWN,
    Cause.OFF: Verdict.UNKNOWN,
    Cause.MAINTENANCE: Verdict.UNKNOWN,
}


class Flaw(StrEnum):
    """What a finding is called: something that answers, but not as it was meant to."""

    ON_CPU = "ON_CPU"
    GPU_LOST = "GPU_LOST"


SERVING: Final = frozenset({Cause.OK, Cause.SLEEPING, Cause.BUSY})
"""Causes under which an endpoint answers prompts; nothing else does."""

LEFT_OUT: Final = frozenset({Cause.OFF, Cause.MAINTENANCE})
"""Causes that leave an endpoint out of its tier's state, of exit codes and of alerts."""

Task = Literal["code", "reason", "chat", "vision", "fast", "embed"]

TASKS: Final[tuple[str, ...]] = get_args(Task)
"""The kinds of work a prompt can be, in the order in which they are shown."""

Rung = Literal["service", "containers", "docker", "wake", "rdp"]

RUNGS: Final[tuple[Rung, ...]] = get_args(Rung)
"""The rungs of the recovery ladder, the least invasive first."""

EXIT_CODES: Final[dict[State, int]] = {State.HEALTHY: 0, State.DEGRADED: 1, State.DOWN: 2, State.UNKNOWN: 3}
"""What `tierdeck status` exits with, as monitoring plugins do."""

PLACING: Final = ("cordon", "drain", "uncordon")
"""What a person may have done to a node of a Kubernetes cluster; nothing of it is ever done unattended."""

KUBERNETES: Final = "kubernetes"
"""The runtime of Deployments and StatefulSets."""

NATIVE: Final = frozenset({"systemd", "launchd", "windows"})
"""The runtimes of native services, which cluster.toml names as MANAGER:NAME; containers go by their names alone."""
