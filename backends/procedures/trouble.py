"""Names what keeps a container from starting, each with its cure, from the system's own words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from backends.cluster.reading import Workload
from backends.cluster.words import KUBERNETES
from backends.errors import ProcedureError, RuntimeFailure
from backends.text import plain

_NAMED: Final = (
    (
        r"could not select device driver",
        "Docker has no driver for GPUs",
        "Install the NVIDIA Container Toolkit on its node, then: nvidia-ctk runtime configure --runtime=docker",
    ),
    (
        r"driver/library version mismatch",
        "the driver was updated under a running kernel",
        "Reboot its node.",
    ),
    (
        r"port is already allocated|address already in use|ports are not available|couldn't bind",
        "its port is taken",
        "See who has it with: docker ps, or: ss -ltnp",
    ),
    (
        r"no such image|image .* (?:was )?not found|pull access denied|manifest unknown",
        "its image is missing",
        "Fetch it with: docker pull",
    ),
    (
        r"no space left on device",
        "its node's disk is full",
        "Make room there; see: docker system df",
    ),
    (
        r"no such volume|volume .* not found|bind source path does not exist|error while mounting volume"
        r"|failed to mount local volume|error while looking up volume plugin",
        "a volume of it is missing",
        "Look at its mounts with: docker inspect",
    ),
    (
        r"paused container",
        "it is paused",
        "Wake it with: docker unpause",
    ),
    (
        r"cuda(?: error)?:? out of memory|cudamalloc failed|cuda_error_out_of_memory|outofmemoryerror"
        r"|unable to allocate \S+ buffer|failed to allocate (?:cuda|vulkan|rocm)\S* buffer"
        r"|free memory on device .* is less than",
        "the GPU's memory is not enough for it",
        "See who holds it: tierdeck gpus",
    ),
)  # fmt: skip

_CODES: Final = {
    126: "its command cannot be run",
    127: "its command is not there",
    134: "it aborted",
    137: "killed",
    139: "it crashed",
    143: "told to stop",
}

_CALLS: Final = {
    "docker": {"logs": "docker logs --tail 50 {0}", "": "docker {verb} {0}"},
    "kubernetes": {
        "start": "kubectl scale --replicas=1 {0}",
        "stop": "kubectl scale --replicas=0 {0}",
        "restart": "kubectl rollout restart {0}",
        "pause": "kubectl rollout pause {0}",
        "logs": "kubectl logs --tail=50 {0}",
    },
    "systemd": {"logs": "journalctl -n 50 -u {0}", "": "systemctl {verb} {0}"},
    "launchd": {"logs": "log show --last 10m --predicate 'process == \"{0}\"'", "": "launchctl {verb} {0}"},
    "windows": {
        "start": "Start-Service {0}",
        "stop": "Stop-Service {0}",
        "restart": "Restart-Service {0}",
        "logs": "Get-EventLog -LogName Application -Newest 50",
    },
}


def call(runtime: str, verb: str, name: str) -> str:
    """The call a person would make: `verb` is start, stop, restart or logs."""
    shown = _CALLS.get(runtime, {})
    named = _in_namespace(name) if runtime == KUBERNETES else shlex.quote(name)
    return shown.get(verb, shown.get("", "{verb} {0}")).format(named, verb=verb)


def _in_namespace(name: str) -> str:
    """A workload as kubectl is told of it: of NAMESPACE/NAME or NAMESPACE/KIND/NAME."""
    namespace, *kind, bare = name.split("/")
    return f"-n {shlex.quote(namespace)} {shlex.quote('/'.join([*kind, bare] if kind else ['deployment', bare]))}"


def named(text: str) -> tuple[str, str]:
    """What `text` means and its cure; ("", "") where it is nothing we know."""
    for pattern, what, cure in _NAMED:
        if re.search(pattern, text, re.IGNORECASE):
            return what, cure
    return "", ""


def refused(workload: Workload, error: RuntimeFailure, others: Iterable[Workload] = ()) -> ProcedureError:
    """The runtime would not start `workload`; `others` run on its node."""
    what, cure = named(error.message)
    said = error.message if len(error.message) <= 120 else f"… {error.message[-110:]}"  # the cause comes last
    for other in others if what == "its port is taken" else ():
        if other.name != workload.name and (shared := set(workload.ports) & set(other.ports)):
            what = f"its port {min(shared)} is taken by {other.name}"
            cure = f"Only one of both can run: {call(other.runtime, 'stop', other.name)}, or publish another port."
    text = f"{workload.name} was not started: " + (f"{what} ({said})." if what else said)
    return ProcedureError(text, cure or error.advice)


def gone(name: str) -> ProcedureError:
    """There is no `name` any more."""
    return ProcedureError(f"{name} is not there any more: removed or renamed.", "Plan anew: tierdeck queue run")


def exited(workload: Workload, lines: Sequence[str], *, times: int = 1) -> ProcedureError:
    """It ended by itself, `times` times by now; `lines` are the last of its log."""
    name, code = workload.name, workload.exit_code
    why = "out of memory" if workload.oom_killed else _CODES.get(code or 0, "")
    what, cure = named("\n".join([*lines, workload.error]))
    text = f"{name} exited" if times < 2 else f"{name} keeps restarting ({times} times): it exited"
    text += (f" with code {code}" if code is not None else "") + (f", {why}" if why else "")
    text += f": {what}." if what else "."
    if workload.error:
        text += f" {plain(workload.error)}"
    elif lines:
        text += f' Its last words: "{plain(lines[-1], 160)}"'
    if workload.oom_killed:
        cure = "Give it more memory, or its model less context."
    return ProcedureError(text, cure or f"Read its log with: {call(workload.runtime, 'logs', name)}")


def stuck(
    workload: Workload,
    seconds: float,
    evidence: str,
    *,
    answered: bool,
    vram_mib: float | None,
    lines: Sequence[str] = (),
    others: Sequence[Workload] = (),
) -> ProcedureError:
    """It runs and is not ready, and nothing has moved for `seconds`; nor are `others`, GPU workloads of its node."""
    name = workload.name
    what, cure = named("\n".join(lines))
    if what:
        return ProcedureError(f"{name} runs, is not ready and silent for {seconds:.0f} s: {what} ({evidence}).", cure)
    if workload.health == "unhealthy" and not answered:
        return ProcedureError(
            f"{name} is unhealthy: it runs, its health check fails, and nothing has moved for {seconds:.0f} s.",
            f"See what the check says: docker inspect --format '{{{{json .State.Health}}}}' {shlex.quote(name)}",
        )
    if workload.gpu and workload.running and not answered:
        flat = f"VRAM flat at {vram_mib:.0f} MiB" if vram_mib is not None else "its VRAM not readable"
        beside = f", and so may {', '.join(w.name for w in others)}, not ready either" if others else ""
        stops = "; ".join(call(w.runtime, "stop", w.name) for w in (workload, *others))
        return ProcedureError(
            f"{name} hangs: running, silent for {seconds:.0f} s, {flat}; "
            f"most likely in CUDA initialisation ({evidence}){beside}.",
            f"Nothing is started behind it. Stop {'them' if others else 'it'}, then retry: {stops}",
        )
    return ProcedureError(
        f"{name} is not ready and has made no progress for {seconds:.0f} s ({evidence}).",
        f"It is left alone. Read its log with: {call(workload.runtime, 'logs', name)}",
    )
