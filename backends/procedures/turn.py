"""Whose turn it is on a host: nobody starts behind a GPU workload that is not ready.

After an outage of its Docker, what came up by itself, all at once, is stopped but for one, which passes the gate first;
then what ran before is started again, one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

from pydantic import JsonValue

from backends.cluster.reading import Workload
from backends.errors import ProcedureError, ReachError
from backends.procedures import gate
from backends.procedures.context import Context, title
from backends.procedures.runner import Report

SHUTDOWN: Final = 20.0
"""Seconds in which a Docker that stops all its containers goes away; it kills them after 10 to 15."""

SHUTDOWN_ALONE: Final = 2.0
"""The same where the one that ended was the only one."""

SHUTDOWN_SWEPT: Final = 5.0
"""Seconds after which a Docker under which everything has ended, and that answers, has been away already."""

Again = Callable[[Workload, Report], Awaitable[None]]
"""Starts one workload, and waits at its gate."""


async def wait_for_others(context: Context, node: str, name: str, limit: float, voice: gate.Voice) -> bool:
    """Wait for every other GPU workload of the host that runs and is not ready; halt by name where one hangs.

    False where something is to be put right first.
    """
    clock = context.clock
    patience = gate.Patience(clock, limit)
    watches: dict[str, gate.Watch] = {}
    async with AsyncExitStack() as stack:
        gauge = await stack.enter_async_context(gate.gauging(context, node))
        while True:
            try:
                running = await gate.running(context, node)
                others = [workload for own, workload in running.items() if own != name]
                found = await gate.blockers(context, node, others)
            except ReachError as error:
                await voice.endure(error, patience, "waiting")
                continue
            if context.outages.unsettled:
                return False
            if not found:
                context.outages.remember(running)
                return True
            workload, why = found[0]
            if workload.name not in watches:
                watch = gate.watching(context, node, workload.runtime, workload.name)
                watches[workload.name] = await stack.enter_async_context(watch)
            patience.see("blockers", tuple(blocker.name for blocker, _ in found))
            patience.see("vram", gauge.step)
            patience.see("log", tuple(watch.count for watch in watches.values()))
            if patience.exhausted:
                raise ProcedureError(
                    f"{workload.name} runs, is not ready ({why}) and has made no progress for {patience.idle:.0f} s; "
                    f"{name} is not started behind it.",
                    f"Look at {workload.name}; stop it or wait for it, then retry.",
                )
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            figures: dict[str, JsonValue] = {"for": [b.name for b, _ in found], "vram_mib": gauge.mib}
            voice.say("waiting", patience.waited, f"waiting for {workload.name}{more}: {why}", figures)
            await clock.sleep(patience.pause)


async def put_right(context: Context, node: str, name: str, report: Report, again: Again) -> None:
    """After an outage, before `name` is started: nothing but what is ready runs, and all runs that ran before.

    What the plan has yet to start is left to its own step.
    """
    outages = context.outages
    if not outages.unsettled:
        return
    with outages.watched():
        known = {title(w): w for w in await context.workloads(node)}
    order = context.inventory.node_named[node].queue.order
    spared, rogue = await _rogue(context, node, known, order) if outages.count > outages.settled else (None, [])
    missing = outages.taken_along(_running(known)) & set(known) if outages.count > outages.settled else frozenset()
    own_step = {name, *context.targets[context.targets.index(name) + 1 :]} if name in context.targets else {name}
    owed = dict.fromkeys([*outages.owed, *missing, *(title(w) for w in rogue)])
    left = sorted((t for t in owed if t not in own_step), key=lambda t: _place(order, t))
    if rogue:
        names = ", ".join(w.name for w in rogue)
        told = f"restarted by themselves with {rogue[0].runtime.capitalize()}"
        kept = f"; {spared.name}, the first, goes on" if spared else ""
        report({"text": f"{told}: {names}; stopped, and queued{kept}", "stopped": [*left]})
        await context.confirm()
        await asyncio.gather(*(_stop(context, node, workload) for workload in rogue))
    outages.settled, outages.owed = outages.count, []
    try:
        if spared is not None and await _hangs(context, node, spared, report):
            left.insert(0, title(spared))
        while left:
            owes = left.pop(0)
            if owes in known and not (known[owes].running and known[owes] not in (*rogue, spared)):
                await again(known[owes], naming(known[owes].name, report))
            report({"text": f"{owes} runs again", "again": owes})
    except BaseException:
        outages.owed += left
        raise


async def goes_away(context: Context, node: str, name: str) -> bool:
    """Whether the node's Docker goes away, or has been away, which is why `name` has ended: it stops all others too."""
    begun = context.clock.now().mono
    while True:
        try:
            running = await gate.running(context, node)
        except ReachError:
            return True
        waited = context.clock.now().mono - begun
        if context.outages.swept(running, name):
            if waited >= SHUTDOWN_SWEPT:
                context.outages.missed()
                return True
        elif waited >= (SHUTDOWN if context.outages.gone(running) - {name} else SHUTDOWN_ALONE):
            return False
        await context.clock.sleep(0.25)


async def _rogue(
    context: Context, node: str, known: Mapping[str, Workload], order: Sequence[str]
) -> tuple[Workload | None, list[Workload]]:
    """Of the GPU workloads that are not ready, those that Docker started by itself: the one that goes on, the others.

    None goes on beside one that starts for another reason; where there is but one, it is no rogue.
    """
    blockers = [workload for workload, _ in await gate.blockers(context, node, _running(known).values())]
    found = [w for w in blockers if context.outages.by_itself(title(w), w)]
    if len(blockers) < 2 or len(found) < len(blockers):
        return None, found if len(blockers) > 1 else []
    first, *others = sorted(found, key=lambda w: (w.started_at or 0.0, _place(order, title(w))))
    return first, others


async def _hangs(context: Context, node: str, spared: Workload, report: Report) -> bool:
    """Wait at the gate for the one that went on; without progress, the others were too near, and it is stopped, too."""
    voice = gate.Voice(naming(spared.name, report), context.clock)
    limit = context.inventory.node_named[node].queue.ready_timeout
    try:
        await wait_for_others(context, node, "the next", limit, voice)
        return False
    except ProcedureError:
        if not await gate.blockers(context, node, [spared]):
            raise
    report({"text": f"{spared.name} hangs; stopped, and queued", "stopped": [title(spared)]})
    await context.confirm()
    await _stop(context, node, spared)
    return True


def _running(known: Mapping[str, Workload]) -> dict[str, Workload]:
    return {t: w for t, w in known.items() if w.gpu and w.astir}


async def _stop(context: Context, node: str, workload: Workload) -> None:
    await (await context.runtime(node, workload.runtime)).stop(workload.name)


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def naming(name: str, report: Report) -> Report:
    """The report of a step that starts several: each line, of its words or of a log, says whose it is."""

    def named(detail: Mapping[str, JsonValue]) -> None:
        text, log = detail.get("text"), detail.get("log")
        if isinstance(log, list):
            report({**detail, "log": [f"{name}: {line}" for line in log]})
        else:
            report({**detail, "text": f"{name}: {text}"} if text else detail)

    return named
