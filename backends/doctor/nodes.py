"""One node: is it reached, is its clock right, do its Docker, services and GPUs answer, is what is named there."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Gpu, Workload
from backends.cluster.tables import Node
from backends.cluster.words import KUBERNETES
from backends.doctor.finding import Finding, bad, ok, warn
from backends.errors import ReachError
from backends.gpus.source import read_once
from backends.reach.nodes import NodeReach
from backends.reach.runtime import Runtime
from backends.reach.services_words import powershell

if TYPE_CHECKING:
    from backends.reach.kubernetes.runtime import KubernetesRuntime

SSH_LIMIT: Final = 12.0
"""Seconds for a connection, a login and one command."""

LIMIT: Final = 20.0
"""Seconds for each other check: a little more than Docker, the services and the GPU tools are given themselves."""

CLOCK_LIMIT: Final = 2.0
"""Seconds by which a node's clock may differ from ours."""

_WINDOWS_CLOCK: Final = "[DateTimeOffset]::UtcNow.ToUnixTimeSeconds()"
_STARTS_BY_ITSELF: Final = ("always", "unless-stopped", "on-failure")


async def examine_node(
    node: Node, inventory: Inventory, reach: NodeReach, now: Callable[[], float] = time.time
) -> tuple[Finding, ...]:
    """All that is to be said of `node`; where it is not reached, only that. `now` is our clock, in Unix seconds."""
    first: tuple[Finding, ...] = ()
    cluster = reach.kubernetes()
    if not reach.is_here:
        if node.ssh is None and cluster is not None:
            return await _bounded(node, "Kubernetes", _kubernetes(node, inventory, cluster))
        if node.ssh is None:
            return (_untouched(node, inventory),)
        first = await _bounded(node, "SSH", _ssh(node, reach))
        if first[0].state == "bad":
            return first
    checks = [_bounded(node, "GPUs", _gpus(node, reach))] if node.gpus != "none" else []
    if not reach.is_here:
        checks.insert(0, _bounded(node, "clock", _clock(node, reach, now)))
    if inventory.runs_containers(node):
        checks.append(_bounded(node, "Docker", _docker(node, inventory, reach)))
    if cluster is not None:
        checks.append(_bounded(node, "Kubernetes", _kubernetes(node, inventory, cluster)))
    if (services := reach.services()) is not None:
        checks.append(_bounded(node, "services", _services(node, services)))
    return first + tuple(finding for found in await asyncio.gather(*checks) for finding in found)


async def _bounded(node: Node, what: str, check: Awaitable[tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """A check within its limit; how it failed is its finding."""
    subject = f"{node.name}: {what}"
    try:
        async with asyncio.timeout(LIMIT):
            return await check
    except ReachError as error:
        return (bad(subject, error.message.removeprefix(f"{node.name}: "), error.advice),)
    except TimeoutError:
        return (bad(subject, f"no answer within {LIMIT:g} s", "It hangs, or the machine is overloaded."),)


def _untouched(node: Node, inventory: Inventory) -> Finding:
    native = any(e.service for e in inventory.endpoints if e.node == node.name)
    subject = f"{node.name}: SSH"
    if node.gpus == "none" and not native and not inventory.runs_containers(node):
        return ok(subject, "not this machine, and without ssh: only its endpoints are asked")
    return warn(
        subject,
        "not this machine, and without ssh: what runs there cannot be seen or started from here",
        f'Add ssh = {{ user = "..." }} to {node.name}; if it is this machine, correct its address.',
    )


async def _ssh(node: Node, reach: NodeReach) -> tuple[Finding, ...]:
    began = time.monotonic()
    await reach.shell.run(["hostname"], timeout=SSH_LIMIT)
    seconds = time.monotonic() - began
    return (ok(f"{node.name}: SSH", f"host key known, logged in within {seconds:.1f} s"),)


async def _clock(node: Node, reach: NodeReach, now: Callable[[], float]) -> tuple[Finding, ...]:
    """The node's clock against ours, to half a second: it tells whole ones."""
    subject = f"{node.name}: clock"
    argv = powershell(_WINDOWS_CLOCK) if node.os == "windows" else ["date", "+%s"]
    before = now()
    done = await reach.shell.run(argv, timeout=SSH_LIMIT)
    after = now()
    said = done.stdout.strip()
    if done.status or not said.isdecimal() or len(said) > 12:
        return (warn(subject, f"it does not tell its time: {said or done.stderr.strip() or 'no words'}"),)
    theirs = int(said) + 0.5
    ahead = max(theirs - after, 0.0) + min(theirs - before, 0.0)  # whenever in between it was that late there
    if abs(ahead) <= CLOCK_LIMIT:
        return (ok(subject, f"within {CLOCK_LIMIT:g} s of ours"),)
    words = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    advice = "Let both keep network time (timedatectl set-ntp true); ages and leases are told wrong until then."
    return (warn(subject, f"about {words}", advice),)


async def _gpus(node: Node, reach: NodeReach) -> tuple[Finding, ...]:
    subject = f"{node.name}: GPUs"
    gpus = await read_once(node, reach.shell)
    mute = [gpu for gpu in gpus if gpu.memory_total_mib is None]
    if mute:
        return (
            warn(
                subject,
                f"{_gpu_words(mute)}: how much memory is not told",
                f'Say it in cluster.toml, for each GPU of {node.name}: vram = ["24GiB"]',
            ),
        )
    return (ok(subject, _gpu_words(gpus)),)


def _gpu_words(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{g.name} ({g.memory_total_mib:.0f} MiB)" if g.memory_total_mib else g.name for g in gpus)


async def _docker(node: Node, inventory: Inventory, reach: NodeReach) -> tuple[Finding, ...]:
    return await _containers(node, inventory, await reach.runtime(), "Docker")


async def _kubernetes(node: Node, inventory: Inventory, runtime: KubernetesRuntime) -> tuple[Finding, ...]:
    """The same of Kubernetes, and what is told beside workloads, but not to us."""
    found = await _containers(node, inventory, runtime, "Kubernetes")
    subject, advice = f"{node.name}: Kubernetes", "Give it that right, or do without what it tells."
    return (*found, *(warn(subject, words, advice) for words in runtime.withheld()))


async def _containers(node: Node, inventory: Inventory, runtime: Runtime, title: str) -> tuple[Finding, ...]:
    """A runtime that answers, and what the inventory names there and it does not have."""
    subject = f"{node.name}: {title}"
    version, workloads = await runtime.version(), await runtime.workloads()
    named = [e.container for e in inventory.endpoints if e.node == node.name and e.container]
    named = [name for name in (*named, *node.queue.order) if ("/" in name) is (runtime.kind == KUBERNETES)]
    what = "workloads" if runtime.kind == KUBERNETES else "containers"
    found = [ok(subject, f"version {version}, {len(workloads)} {what}")]
    found += _missing(node, dict.fromkeys(named), workloads)
    found += _unruly(node, workloads)
    return tuple(found)


def _missing(node: Node, named: dict[str, None], workloads: Sequence[Workload]) -> list[Finding]:
    """Containers that only the inventory knows."""
    known = [workload.name for workload in workloads]
    return [_no_such(node, "container", name, known) for name in named if name not in known]


def _no_such(node: Node, what: str, name: str, known: Sequence[str]) -> Finding:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    mean = f'Did you mean "{near[0]}"? ' if near else ""
    return bad(
        f"{node.name}: {what} {name}", "there is none of that name", f"{mean}Correct cluster.toml, or create it."
    )


def _unruly(node: Node, workloads: Sequence[Workload]) -> list[Finding]:
    """GPU containers that Docker starts by itself."""
    names = sorted(w.name for w in workloads if w.gpu and w.restart_policy in _STARTS_BY_ITSELF)
    if not names:
        return []
    return [
        warn(
            f"{node.name}: restart policies",
            f"Docker starts {', '.join(names)} at boot by itself, past the queue: "
            "GPU containers that start at once can deadlock the driver",
            f"First let something start the queue at boot (tierdeck queue run {node.name} --yes), then: "
            f"docker update --restart=no {' '.join(names)}; and take `restart:` out of their Compose file.",
        )
    ]


async def _services(node: Node, services: Runtime) -> tuple[Finding, ...]:
    workloads = await services.workloads()
    missing = [w.name for w in workloads if w.state == "missing"]
    if missing:
        return tuple(_no_such(node, f"{services.kind} service", name, ()) for name in missing)
    return (ok(f"{node.name}: services", ", ".join(f"{w.name} {w.state}" for w in workloads)),)
