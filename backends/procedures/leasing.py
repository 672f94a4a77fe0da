"""One procedure per node at a time, across machines: a lease on the node itself, renewed while it is held.

The lock of this machine (lock.py) stands before it; where that tells that a lease's runner has died, the lease is
free at once, and else once its owner has given no sign of life for a minute and a person says so.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

from backends.cluster.inventory import Inventory
from backends.cluster.tables import Node
from backends.errors import ProcedureError, ReachError, SshError, StaleLease, TierdeckError
from backends.procedures import journal as journals
from backends.reach.lease import STALE, Holder, NoPlace, Place, Seen
from backends.reach.lease_container import ContainerPlace
from backends.reach.lease_files import FILE, FilePlace, LocalFiles, SftpFiles, home_of
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches

HEARTBEAT: Final = 10.0
"""Seconds between two signs of life; a lease outlives five that are lost."""

RELEASE_LIMIT: Final = 5.0
"""Seconds for giving a lease back; one that cannot be given back is free a minute later."""

AGAIN: Final = 1.0
"""Seconds between two tries to take a lease on a node that was out of reach."""

_GLANCE: Final = 5.0
_TRIES: Final = 3


def places(reaches: Reaches, inventory: Inventory, node: str) -> tuple[Place, ...]:
    """Where the lease of `node` may be kept, the first that works to be used."""
    reach = reaches[node]
    found = [*_object(reaches, reach.node), *_file(reach)]
    if (reach.is_here or reach.node.ssh) and inventory.runs_containers(reach.node):
        found.append(ContainerPlace(reach))
    return tuple(found)


def away(reaches: Reaches, inventory: Inventory, node: str) -> tuple[Place, ...]:
    """Where the lease of `node` is kept while it is out of reach: on the inventory's lock_host, if it names one."""
    host = inventory.lock_host
    if host is None or host == node:
        return ()
    return tuple(_file(reaches[host], str(PurePosixPath(FILE).with_name(f"lock-{quote(node, safe='')}.json"))))


def _object(reaches: Reaches, node: Node) -> list[Place]:
    """The Lease of a Kubernetes node: whoever works on it through the API looks there."""
    if node.kubernetes is None:
        return []
    from backends.reach.kubernetes.lease import LeaseObject

    return [LeaseObject(reaches.clusters[node.kubernetes.cluster], node.name)]


def _file(reach: NodeReach, path: str = FILE) -> list[Place]:
    if reach.is_here:
        return [FilePlace(LocalFiles(home_of(reach.node)), reach.node.name, path)]
    return [FilePlace(SftpFiles(reach._remote()[0]), reach.node.name, path)] if reach.node.ssh else []


def holder_for(node: str, owner: str, procedure: str) -> Holder:
    """A holder with a token of its own."""
    return Holder(owner, socket.gethostname(), procedure, node, secrets.token_hex(8))


def has_died(state_dir: Path, holder: Holder, ours: str) -> bool:
    """Whether the kernel of this machine says that a lease's runner is gone; `ours` is the procedure that asks."""
    if holder.host != socket.gethostname() or not holder.procedure:
        return False
    if holder.procedure == ours:
        return True  # whoever asks has taken its journal
    with suppress(ProcedureError, FileNotFoundError):
        return not journals.is_running(journals.journal_path(state_dir, holder.procedure))
    return False


@dataclass(slots=True)
class Lease:
    """A lease that is held."""

    place: Place
    holder: Holder

    async def confirm(self) -> None:
        """Ask the node once more whether it is ours: ProcedureError where another has taken it over.

        One that somebody merely removed is taken anew. A ReachError where the node cannot be asked.
        """
        token = await self.place.token()
        if token == self.holder.token or (token is None and await self.place.create(self.holder)):
            return
        seen = await self.place.look()
        who = f"{seen.holder.owner} took {seen.holder.node} over {seen.held:.0f} s ago" if seen else "The lease is gone"
        raise ProcedureError(f"{who}; nothing more is done here.", f"See {self.place.where}.")

    async def beat(self) -> None:
        """Give a sign of life; a ReachError where the node cannot be asked."""
        await self.place.beat(self.holder.token)

    async def release(self) -> None:
        """Give it back, if it is still ours."""
        await self.place.clear(self.holder.token)


@dataclass(slots=True)
class AwayLease(Lease):
    """A lease held elsewhere while its node is out of reach; `come_home` takes it there, too, once that is back."""

    home: Lease | None = None
    refusal: ProcedureError | None = None

    async def come_home(self, take: Callable[[], Awaitable[Lease]]) -> None:
        """Try until the node answers; that another has it there by then is for `confirm` to say."""
        while self.home is None and self.refusal is None:
            try:
                async with asyncio.timeout(_GLANCE):
                    self.home = await take()
            except ProcedureError as error:
                self.refusal = error
            except (ReachError, TimeoutError):
                await asyncio.sleep(AGAIN)

    async def confirm(self) -> None:
        """Both places are ours, as far as the node has come back; ProcedureError where another has one of them."""
        if self.refusal is not None:
            raise self.refusal
        await Lease.confirm(self)
        if self.home is not None:
            await self.home.confirm()

    async def beat(self) -> None:
        """Give a sign of life in both places; a ReachError where one cannot be asked."""
        await Lease.beat(self)
        if self.home is not None:
            await self.home.beat()


@asynccontextmanager
async def leasing(
    where: Sequence[Place],
    elsewhere: Sequence[Place],
    holder: Holder,
    *,
    died: Callable[[Holder], bool],
    take_over: bool = False,
) -> AsyncIterator[Lease]:
    """Hold the lease of a node in the first place of `where` that keeps one; `elsewhere` while it is out of reach.

    Held elsewhere, it is taken on the node, too, as soon as that answers.

    ProcedureError naming owner, host and age where another has it. `died` says that a holder is known to be gone;
    with `take_over`, one that no longer renews it gives way too.
    """
    coming: list[asyncio.Task[None]] = []
    try:
        lease = await _take(where, holder, died, take_over)
    except SshError:
        if not elsewhere:
            raise
        lease = away = AwayLease((await _take(elsewhere, holder, died, take_over)).place, holder)
        coming = [asyncio.create_task(away.come_home(partial(_take, where, holder, died, take_over)))]
    tasks = [asyncio.create_task(_renew(lease)), *coming]
    try:
        yield lease
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(lease, AwayLease) and lease.home is not None:
            await _release(lease.home)
        await _release(lease)


async def _take(where: Sequence[Place], holder: Holder, died: Callable[[Holder], bool], take_over: bool) -> Lease:
    lease, trouble = None, ProcedureError(f"Nothing leads to {holder.node}: no ssh, and it is not this machine.")
    for place in where:
        if lease is not None:
            await _refuse_second(lease, place, died, take_over)
            continue
        try:
            await _create(place, holder, died, take_over)
            lease = Lease(place, holder)
        except NoPlace as error:
            trouble = ProcedureError(error.message, error.advice)
    if lease is None:
        raise trouble
    return lease


async def _create(place: Place, holder: Holder, died: Callable[[Holder], bool], take_over: bool) -> None:
    for _ in range(_TRIES):
        if await place.create(holder):
            return
        if (seen := await place.look()) is not None:
            await _give_way(place, seen, died, take_over)
    raise ProcedureError(f"The lease of {holder.node} changes hands all the time.", "Try again.")


async def _refuse_second(lease: Lease, place: Place, died: Callable[[Holder], bool], take_over: bool) -> None:
    """Look where somebody may have taken it who could not use the first place."""
    try:
        async with asyncio.timeout(_GLANCE):
            seen = await place.look()
    except (ReachError, TimeoutError):
        return  # nor can anybody else look there now
    try:
        if seen is not None:
            await _give_way(place, seen, died, take_over)
    except TierdeckError:
        await _release(lease)
        raise


async def _give_way(place: Place, seen: Seen, died: Callable[[Holder], bool], take_over: bool) -> None:
    """End a lease that may be ended; else refuse."""
    if not (died(seen.holder) or (take_over and seen.stale)):
        raise busy(seen)
    await place.clear(seen.holder.token)


def busy(seen: Seen) -> ProcedureError:
    """Who holds a node, since when, and what can be done about it."""
    who = seen.holder
    doing = f" with procedure {who.procedure}" if who.procedure else ""
    pulse = f", its last sign of life {seen.silent:.0f} s ago" if seen.silent > 3 * HEARTBEAT else ""
    text = f"{who.owner} has held {who.node} for {seen.held:.0f} s{doing}{pulse}; one procedure per node at a time."
    if seen.stale:
        return StaleLease(text, "Its owner no longer renews it: see what it does there, then use --take-over.")
    follow = f"tierdeck procedures attach {who.procedure}" if who.procedure else "try again later"
    return ProcedureError(text, f"Follow it on {who.host or 'its machine'}: {follow}")


async def _renew(lease: Lease) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        with suppress(ReachError):  # the next one may come through; `confirm` says what became of it
            await lease.beat()


async def _release(lease: Lease) -> None:
    try:
        async with asyncio.timeout(RELEASE_LIMIT):
            await lease.release()
    except (ReachError, TimeoutError) as error:
        kept = f"{lease.place.where} was not given back ({error or 'no answer'}); it is free {STALE:.0f} s later."
        print(kept, file=sys.stderr)  # into the runner's log: its journal is closed by then
