"""This machine: its commands, and which node of the inventory it is."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shlex
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import psutil

from backends.cluster.inventory import Inventory
from backends.errors import CommandError
from backends.reach.bridge import Duplex
from backends.reach.runtime import Completed
from backends.reach.streams import first_words, read_all, split_lines, tail_of

_GRACE: Final = 1.0
"""Seconds a killed process gets to vanish; one that hangs in a driver never does, and is not waited for."""


def hostname() -> str:
    """This machine's own name."""
    return socket.gethostname()


def addresses() -> frozenset[str]:
    """The addresses of this machine's network interfaces."""
    return frozenset(
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means the machine it is used on."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def which_node(inventory: Inventory, hostname: str, addresses: Collection[str]) -> str | None:
    """The node this machine is: by address, else by name, else a loopback address on a node without `ssh`."""
    ours = {_normal(address) for address in addresses if not is_loopback(address)}
    nodes = inventory.nodes
    found = (
        next((n for n in nodes if _normal(n.address) in ours), None)
        or next((n for n in nodes if _same_name(n.address, hostname) or _same_name(n.name, hostname)), None)
        or next((n for n in nodes if n.ssh is None and is_loopback(n.address)), None)
    )
    return found.name if found else None


def _normal(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return address.lower()


def _same_name(one: str, other: str) -> bool:
    """Whether two host names are the same, where either may lack its domain; `localhost` is nobody's name."""
    one, other = one.lower().rstrip("."), other.lower().rstrip(".")
    if not one or not other or is_loopback(one) or one.replace(".", "").isdigit():
        return False
    return one == other or (("." in one) != ("." in other) and one.partition(".")[0] == other.partition(".")[0])


class LocalShell:
    """Runs commands on this machine, each in a process group of its own that is killed as a whole."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command to its end; TimeoutError after `timeout` seconds, CommandError where it cannot be run."""
        try:
            async with asyncio.timeout(timeout), self._process(argv) as process:
                into, out, err = _pipes(process)
                stdout, stderr, _ = await asyncio.gather(read_all(out.read), read_all(err.read), _feed(into, stdin))
                status = await process.wait()
        except TimeoutError:
            raise TimeoutError(f"`{shlex.join(argv[:6])}` did not end within {timeout:g} s here.") from None
        return Completed(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    @asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncGenerator[AsyncIterator[str], None]:
        """A command's lines as they come; CommandError at the end if it failed; it is killed on leaving."""
        async with self._process(argv) as process, aclosing(_lines(argv, process)) as lines:
            yield lines

    @asynccontextmanager
    async def pipe(self, argv: Sequence[str]) -> AsyncGenerator[Duplex, None]:
        """A command's standard streams as a connection; CommandError on leaving if it failed by itself."""
        async with self._process(argv) as process:
            into, out, err = _pipes(process)
            async with tail_of(err.read) as complaint:
                yield Duplex(out, into)
                if out.at_eof():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_GRACE):
                            raise_failure(argv, await process.wait(), await complaint)

    @asynccontextmanager
    async def _process(self, argv: Sequence[str]) -> AsyncGenerator[asyncio.subprocess.Process, None]:
        try:
            process = await _started(argv, self._environment)
        except FileNotFoundError:
            raise CommandError(
                f"{argv[0]} is not installed here, or not on the PATH.", f"Install {argv[0]}.", status=127
            ) from None
        except (OSError, ValueError) as error:
            raise CommandError(f"{argv[0]} cannot be run here: {error}.", status=126) from error
        ended = False
        try:
            yield process
            ended = process.returncode is not None
        finally:
            await _end(process, kill=not ended)


async def _started(argv: Sequence[str], environment: Mapping[str, str] | None) -> asyncio.subprocess.Process:
    """A process of its own group; asyncio must not be cancelled while it opens the pipes, it would hang for ever."""
    pipe = asyncio.subprocess.PIPE
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():  # who closes everything may cancel more than once
            with suppress(asyncio.CancelledError):
                await asyncio.wait({starting})
        if starting.exception() is None:
            await _end(starting.result(), kill=True)
        raise


def _pipes(
    process: asyncio.subprocess.Process,
) -> tuple[asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamReader]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("a process without pipes")
    return process.stdin, process.stdout, process.stderr


async def _feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it need not read what it is given
        writer.write(data)
        await writer.drain()
    writer.close()


async def _lines(argv: Sequence[str], process: asyncio.subprocess.Process) -> AsyncGenerator[str, None]:
    into, out, err = _pipes(process)
    into.close()
    async with tail_of(err.read) as complaint, aclosing(split_lines(out.read)) as lines:
        async for line in lines:
            yield line
        raise_failure(argv, await process.wait(), await complaint)


def raise_failure(argv: Sequence[str], status: int, complaint: bytes, where: str = "here") -> None:
    """Raise CommandError with the command's own words where its exit code is not 0."""
    if status:
        words = first_words(complaint.decode(errors="replace")) or f"it ended with status {status}"
        raise CommandError(f"`{shlex.join(argv[:6])}` failed {where}: {words}", status=status)


async def _end(process: asyncio.subprocess.Process, *, kill: bool) -> None:
    """Kill the process with its group, and let go of its pipes even where a child of its own holds them open."""
    if kill:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await process.wait()
    process._transport.close()  # type: ignore[attr-defined]  # asyncio offers no public way
