"""Checks: what else deserves a lamp, each probed like an engine, so that it is paced and judged like an endpoint."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pydantic import BaseModel

from backends.clock import Clock
from backends.cluster.reading import ProbeResult
from backends.cluster.tables import Check
from backends.cluster.words import Cause
from backends.engines.ask import parsed
from backends.engines.engine import Engine, failed
from backends.engines.failures import named
from backends.engines.refusals import refusal
from backends.engines.registry import ENGINES
from backends.engines.target import ProbeFailure, Target, address
from backends.errors import CommandError, ReachError
from backends.reach.nodes import NodeReach
from backends.text import plain

if TYPE_CHECKING:
    from backends.engines.http import Http

CANNOT_RUN: Final = frozenset({126, 127})
"""What a shell answers for a program that may not be run, or is not there."""


def engine_of(check: Check, reach: NodeReach, clock: Clock) -> Engine:
    """What probes a check; `reach` is the node that it is about."""
    match check.kind:
        case "http":
            return ENGINES["http"]
        case "tcp":
            return Tcp()
        case "command":
            return Command(check.command, reach)
        case "age":
            return Age(check.path or "", check.limit or 0.0, reach, clock)
        case "syncthing":
            return Syncthing(check.folder or "")


@dataclass(frozen=True, slots=True)
class Tcp:
    """A port that accepts connections."""

    name = "tcp"

    async def probe(self, http: Http, target: Target, *, deep: bool, light: bool = False) -> ProbeResult:
        """See Engine."""
        parts, where, began = urlsplit(target.url), address(target.url), perf_counter()
        try:
            async with asyncio.timeout(target.timeout):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except TimeoutError:
            return ProbeResult(Cause.TIMEOUT, f"no answer from {where} within {target.timeout:.3g} s")
        except OSError as error:
            return failed(named(error, where, tls=False, through=False, answering=False))
        writer.close()
        return ProbeResult(Cause.OK, "accepts connections", latency=perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Command:
    """A program of the person's, by its exit code."""

    argv: tuple[str, ...]
    reach: NodeReach
    name = "command"

    async def probe(self, http: Http, target: Target, *, deep: bool, light: bool = False) -> ProbeResult:
        """See Engine."""
        began = perf_counter()
        try:
            done = await self.reach.shell.run(self.argv, timeout=target.timeout)
        except TimeoutError:
            return ProbeResult(Cause.TIMEOUT, f"{self.argv[0]} did not end within {target.timeout:.3g} s")
        except CommandError as error:
            return ProbeResult(Cause.CONFIG, plain(str(error)))
        except ReachError as error:
            return ProbeResult(Cause.UNREACHABLE, plain(str(error)))
        said = plain(next((line for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()), ""), 100)
        if done.status == 0:
            return ProbeResult(Cause.OK, said or "exit code 0", latency=perf_counter() - began)
        cause = Cause.CONFIG if done.status in CANNOT_RUN else Cause.BAD_RESPONSE
        return ProbeResult(cause, f"exit code {done.status}" + (f": {said}" if said else ""))


@dataclass(frozen=True, slots=True)
class Age:
    """A file, or the newest entry of a folder, against a limit in seconds."""

    path: str
    limit: float
    reach: NodeReach
    clock: Clock
    name = "age"

    async def probe(self, http: Http, target: Target, *, deep: bool, light: bool = False) -> ProbeResult:
        """See Engine."""
        try:
            found = await self.reach.newest(self.path, timeout=target.timeout)
        except TimeoutError:
            return ProbeResult(Cause.TIMEOUT, f"{self.path} could not be looked at within {target.timeout:.3g} s")
        except CommandError as error:
            return ProbeResult(Cause.BAD_RESPONSE, plain(str(error)))
        except ReachError as error:
            return ProbeResult(Cause.UNREACHABLE, plain(str(error)))
        except OSError as error:
            return ProbeResult(Cause.CONFIG, f"{self.path}: {error.strerror or os.strerror(error.errno or 0)}")
        if not found.count:
            return ProbeResult(Cause.BAD_RESPONSE, f"{self.path} is empty")
        age = max(0.0, self.clock.now().wall - found.at)
        of = f" of {found.count}" if found.count > 1 else ""
        words = f"newest{of}: {plain(found.name, 60)}, {span(age)} old (limit {span(self.limit)})"
        return ProbeResult(Cause.OK if age <= self.limit else Cause.BAD_RESPONSE, words)


class _Folder(BaseModel):
    """What Syncthing tells of a folder at /rest/db/status."""

    state: str
    needTotalItems: int
    needBytes: int = 0
    globalFiles: int = 0
    errors: int = 0
    error: str = ""
    stateChanged: datetime | None = None


@dataclass(frozen=True, slots=True)
class Syncthing:
    """A folder that Syncthing keeps in sync, by its REST API (seen with 1.19)."""

    folder: str
    name = "syncthing"

    async def probe(self, http: Http, target: Target, *, deep: bool, light: bool = False) -> ProbeResult:
        """See Engine."""
        from urllib.parse import quote

        route = f"/rest/db/status?folder={quote(self.folder, safe='')}"
        headers = {"X-API-Key": target.key.get_secret_value()} if target.key else {}
        try:
            answer = await http.get(target.url + route, timeout=target.timeout, headers=headers, via=target.via)
            if answer.status == 403:
                raise ProbeFailure(Cause.CONFIG, "403: API key " + ("not accepted" if headers else "missing"))
            if answer.status == 404 and answer.text == "no such folder":
                raise ProbeFailure(Cause.CONFIG, f"Syncthing knows no folder {self.folder}")
            told = parsed(answer, _Folder) if answer.status == 200 else None
            if told is None:
                raise refusal(answer, "/rest/db/status", target)
        except ProbeFailure as failure:
            return failed(failure)
        cause, words = _synced(told)
        return ProbeResult(cause, plain(words), latency=answer.seconds)


def _synced(told: _Folder) -> tuple[Cause, str]:
    changed = told.stateChanged if told.stateChanged and told.stateChanged.year > 1 else None
    since = f" since {changed.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if changed else ""
    if told.state == "error" or told.error:
        return Cause.BAD_RESPONSE, f"stands still{since}: {told.error or 'error'}"
    if told.errors:
        return Cause.BAD_RESPONSE, f"{told.errors} items cannot be synced{since}"
    if not told.state:
        return Cause.CONFIG, "the folder is paused, or not running"
    if told.needTotalItems:
        return Cause.BUSY, f"{told.state}{since}: {told.needTotalItems} items, {told.needBytes / 2**20:.1f} MiB to go"
    return Cause.OK, f"in sync{since}; {told.globalFiles} files"


def span(seconds: float) -> str:
    """A time span in one unit ("40 s", "3 min", "26 h", "5 d")."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds // 60:.0f} min"
