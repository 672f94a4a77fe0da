"""Looks at one node from all sides at once, within one time limit, and names its fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from backends.cluster.faults import Check, Diagnosis, Part, Seen, diagnose
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot, EndpointState
from backends.cluster.tables import Endpoint, Node
from backends.cluster.words import LEFT_OUT, Cause, Flaw, Verdict
from backends.errors import CommandError, ReachError, SshError
from backends.gpus.source import read_once
from backends.procedures.context import residence, title
from backends.reach.knock import KNOCK_LIMIT, knock, resolves, route
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches
from backends.reach.services_words import powershell
from backends.reach.windows import LOGGED_IN, desktop_users

LIMIT: Final = 15.0
"""Seconds for each look; they are made side by side, so also for all of them."""

DRIVER_LIMIT: Final = 12.0
"""Seconds after which a driver that does not answer hangs; nvidia-smi takes at most a few, were it asked for hours."""

Look = Callable[[], Awaitable[tuple[Check, ...]]]


async def examine(
    node: Node, inventory: Inventory, reaches: Reaches, snapshot: Awaitable[ClusterSnapshot]
) -> tuple[Diagnosis, ClusterSnapshot]:
    """The diagnosis of `node`, and the whole cluster as it was seen meanwhile; `snapshot` is a look at it."""
    reach = reaches[node.name]
    looking = asyncio.ensure_future(snapshot)
    looks = [_name(node, reach), _docker(node, inventory, reach), _driver(node, reach), _desktop(node, reach)]
    looks += [_ssh(node, inventory, reaches), _kubernetes(reach)]
    try:
        found = await asyncio.gather(*looks)
        seen = await looking
    finally:
        looking.cancel()
    checks = {check.name: check for several in found for check in several}
    checks |= {"engines": engines} if (engines := _engines(node, inventory, seen)) else {}
    parts = _parts(node, inventory, seen)
    return diagnose(node.name, Seen(checks, parts, windows=node.os == "windows")), seen


async def _within(name: str, work: Awaitable[tuple[Check, ...]], *, hung: str = "") -> tuple[Check, ...]:
    """A look within its limit, timed; how it failed is its finding, `hung` the kind of one that does not end."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT):
            checks = await work
    except SshError as error:
        checks = (Check(name, "bad" if name == "ssh" else "unknown", error.message, error.kind),)
    except ReachError as error:
        checks = (Check(name, "bad", error.message),)
    except TimeoutError:
        checks = (Check(name, "bad", f"no answer within {LIMIT:g} s", hung),)
    seconds = round(time.monotonic() - began, 2)
    return tuple(replace(check, seconds=seconds) for check in checks)


async def _name(node: Node, reach: NodeReach) -> tuple[Check, ...]:
    if reach.is_here:
        return ()

    async def work() -> tuple[Check, ...]:
        if trouble := await resolves(node.address):
            return (Check("name", "bad", trouble),)
        if trouble := await asyncio.to_thread(_route, node.address):
            return (Check("way out", "bad", trouble),)
        return ()

    return await _within("name", work())


def _route(address: str) -> str:
    try:
        return route(address)
    except OSError:  # a name: its addresses are tried when it is connected to
        return ""


async def _ssh(node: Node, inventory: Inventory, reaches: Reaches) -> tuple[Check, ...]:
    """SSH; where it does not answer also what else does, from here and from other nodes."""
    reach = reaches[node.name]
    if reach.is_here or node.ssh is None:
        return await _desktop_port(node) if not reach.is_here else ()

    async def work() -> tuple[Check, ...]:
        await reach.connected()
        await reach.shell.run(["hostname"], timeout=LIMIT)  # a connection to a machine that fell asleep still stands
        return (Check("ssh", "ok", "logged in"),)

    (found,) = await _within("ssh", work())
    if found.state == "ok":
        return (found,)
    port, elsewhere = await asyncio.gather(_desktop_port(node), _elsewhere(node, inventory, reaches))
    return (found, *port, *elsewhere)


async def _desktop_port(node: Node) -> tuple[Check, ...]:
    if node.wake is None or node.wake.rdp is None:
        return ()
    answer = await knock(node.address, node.wake.rdp.port)
    return (Check("desktop port", "ok" if answer.kind == "open" else "bad", answer.words),)


async def _elsewhere(node: Node, inventory: Inventory, reaches: Reaches) -> tuple[Check, ...]:
    """Whether any other node reaches it, by SSH to that node and a connection from there."""
    assert node.ssh is not None
    port = node.ssh.port
    others = [n for n in inventory.nodes if n.name != node.name and n.ssh is not None]
    found = await asyncio.gather(*(_from(reaches[other.name], node.address, port) for other in others))
    reached = [other.name for other, answers in zip(others, found, strict=True) if answers]
    asked = [other.name for other, answers in zip(others, found, strict=True) if answers is not None]
    if reached:
        return (Check("from elsewhere", "ok", f"{', '.join(reached)} reaches {node.address}:{port}"),)
    if asked:
        return (Check("from elsewhere", "bad", f"{', '.join(asked)} does not reach {node.address}:{port} either"),)
    return ()


async def _from(reach: NodeReach, host: str, port: int) -> bool | None:
    """Whether a port answers from another node; None where that node cannot be asked itself."""
    if reach.is_here:
        return None
    try:
        async with asyncio.timeout(LIMIT):
            await reach.connected()
    except (ReachError, TimeoutError):
        return None
    try:
        async with asyncio.timeout(KNOCK_LIMIT), reach.tcp(host, port):
            return True
    except (ReachError, TimeoutError):
        return False


async def _docker(node: Node, inventory: Inventory, reach: NodeReach) -> tuple[Check, ...]:
    if not inventory.runs_containers(node) or not (reach.is_here or node.ssh):
        return ()

    async def work() -> tuple[Check, ...]:
        await reach.connected()
        return (Check("docker", "ok", f"version {await (await reach.runtime()).version()}"),)

    return await _within("docker", work())


async def _kubernetes(reach: NodeReach) -> tuple[Check, ...]:
    """What its cluster says of the node."""
    runtime = reach.kubernetes()
    if runtime is None:
        return ()

    async def work() -> tuple[Check, ...]:
        host = await runtime.host()
        if not host.ready:
            return (Check("kubernetes", "bad", f"NotReady: {host.why}", "not_ready"),)
        if host.cordoned:
            return (Check("kubernetes", "bad", "Ready, and cordoned", "cordoned"),)
        return (Check("kubernetes", "ok", f"Ready, {await runtime.version()}"),)

    return await _within("kubernetes", work())


async def _driver(node: Node, reach: NodeReach) -> tuple[Check, ...]:
    if node.gpus == "none" or not (reach.is_here or node.ssh):
        return ()

    async def work() -> tuple[Check, ...]:
        await reach.connected()
        try:
            gpus = await read_once(node, reach.shell, DRIVER_LIMIT)
        except SshError:
            raise
        except ReachError as error:
            return (Check("driver", "bad", error.message, _driver_kind(error)),)
        return (Check("driver", "ok", ", ".join(dict.fromkeys(gpu.name for gpu in gpus))),)

    return await _within("driver", work(), hung="hung")


def _driver_kind(error: ReachError) -> str:
    """Whether the driver lost a GPU, or hangs; "" for anything else, such as a tool that is not installed."""
    if "lost a GPU" in error.message:
        return "off_bus"
    return "hung" if not isinstance(error, CommandError) and "hangs" in error.advice else ""


async def _desktop(node: Node, reach: NodeReach) -> tuple[Check, ...]:
    """Who is logged in on Windows: Docker Desktop runs only then."""
    if node.os != "windows" or not (reach.is_here or node.ssh):
        return ()

    async def work() -> tuple[Check, ...]:
        await reach.connected()
        done = await reach.shell.run(powershell(LOGGED_IN), timeout=LIMIT)
        return (desktop_session(done.stdout),)

    return await _within("desktop session", work())


def desktop_session(said: str) -> Check:
    """What LOGGED_IN printed, as a check."""
    users = desktop_users(said)
    if not users:
        return Check("desktop session", "bad", "nobody is logged in", "nobody")
    return Check("desktop session", "ok", f"logged in: {', '.join(users)}")


def _engines(node: Node, inventory: Inventory, seen: ClusterSnapshot) -> Check | None:
    asked = [seen.endpoints[e.name] for e in inventory.endpoints if e.node == node.name]
    asked = [state for state in asked if state.cause not in LEFT_OUT]
    if not asked:
        return None
    serving = [state.name for state in asked if state.serving]
    down = [f"{s.name}: {s.cause.value if s.cause else ''} {s.evidence}" for s in asked if not s.serving]
    if not down:
        return Check("engines", "ok", f"{len(serving)} of {len(asked)} serve")
    more = f" (and {len(down) - 1} more)" if len(down) > 1 else ""
    return Check("engines", "ok" if serving else "bad", f"{len(serving)} of {len(asked)} serve; {down[0]}{more}")


def _parts(node: Node, inventory: Inventory, seen: ClusterSnapshot) -> tuple[Part, ...] | None:
    state = seen.nodes[node.name]
    if state.reach_trouble or state.workloads_trouble or state.workloads_taken is None:
        return None
    known = {title(w): w for w in state.workloads}
    flaws = {finding.endpoint: finding.flaw for finding in seen.findings}
    named: dict[str, list[Endpoint]] = {}
    for endpoint in inventory.endpoints:
        home = residence(endpoint)
        if endpoint.node == node.name and home and not endpoint.on_demand:
            named.setdefault(home, []).append(endpoint)
    for name in node.queue.order:
        named.setdefault(name, [])
    on_demand = {residence(e) for e in inventory.endpoints if e.node == node.name and e.on_demand}
    return tuple(
        _part(name, known.get(name), [seen.endpoints[e.name] for e in endpoints], flaws)
        for name, endpoints in named.items()
        if name not in on_demand
    )


def _part(name: str, workload: Workload | None, states: Sequence[EndpointState], flaws: dict[str, Flaw]) -> Part:
    native = ":" in name
    if any(state.cause in LEFT_OUT for state in states):
        return Part(name, native, True)
    if workload is None or not workload.running:
        why = "there is none of that name" if workload is None or workload.state == "missing" else workload.state
        return Part(name, native, False, why, "config" if workload is None else "down")
    for state in states:
        if state.cause is Cause.CONFIG:
            closed = state.evidence.startswith("answers on ")
            return Part(name, native, True, state.evidence, "closed" if closed else "config")
        if state.verdict is Verdict.DOWN:
            return Part(name, native, True, state.evidence, "down")
        if state.name in flaws:
            lost = flaws[state.name] is Flaw.GPU_LOST
            return Part(name, native, True, flaws[state.name].value, "lost_gpu" if lost else "on_cpu")
    return Part(name, native, True)
