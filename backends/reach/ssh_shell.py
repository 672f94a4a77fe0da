"""Commands on a node over its one SSH connection."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import asyncssh

from backends.reach.bridge import Duplex
from backends.reach.local import raise_failure
from backends.reach.runtime import Completed
from backends.reach.ssh import SshLink
from backends.reach.streams import read_all, split_lines, tail_of

_GRACE: Final = 1.0


class SshShell:
    """Runs commands on a node over its one connection; on Windows only words that need no quoting survive."""

    def __init__(self, link: SshLink) -> None:
        self._link = link

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        """Run a command to its end; TimeoutError after `timeout` seconds, SshError where it is not begun, or lost."""
        watch = self._link.watch
        deadline = asyncio.get_running_loop().time() + timeout
        async with self._link.session(argv, limit=timeout) as process:
            try:
                async with asyncio.timeout_at(deadline):
                    stdout, stderr, _ = await asyncio.gather(
                        read_all(watch(process.stdout).read),
                        read_all(watch(process.stderr).read),
                        _feed(process.stdin, stdin),
                    )
                    await process.wait_closed()
            except TimeoutError:
                command = shlex.join(argv[:6])
                raise TimeoutError(f"`{command}` did not end within {timeout:g} s {self._where}.") from None
            status = self._status(process)
        return Completed(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    @asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncGenerator[AsyncIterator[str], None]:
        """A command's lines as they come; CommandError at the end if it failed; it is ended on leaving."""
        async with self._link.session(argv) as process, aclosing(self._lines(argv, process)) as lines:
            yield lines

    @asynccontextmanager
    async def pipe(self, argv: Sequence[str]) -> AsyncGenerator[Duplex, None]:
        """A command's standard streams as a connection; CommandError on leaving if it failed by itself."""
        async with self._link.session(argv) as process, tail_of(self._link.watch(process.stderr).read) as complaint:
            yield Duplex(self._link.watch(process.stdout), process.stdin)
            if process.stdout.at_eof():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GRACE):
                        await process.wait_closed()
                        raise_failure(argv, self._status(process), await complaint, self._where)

    @property
    def _where(self) -> str:
        return f"on {self._link.target.node}"

    async def _lines(self, argv: Sequence[str], process: asyncssh.SSHClientProcess[bytes]) -> AsyncGenerator[str, None]:
        process.stdin.write_eof()
        stdout, stderr = self._link.watch(process.stdout), self._link.watch(process.stderr)
        async with tail_of(stderr.read) as complaint, aclosing(split_lines(stdout.read)) as lines:
            async for line in lines:
                yield line
            await process.wait_closed()
            raise_failure(argv, self._status(process), await complaint, self._where)

    def _status(self, process: asyncssh.SSHClientProcess[bytes]) -> int:
        if process.exit_status is None:
            raise self._link.dropped()
        return process.exit_status


async def _feed(writer: asyncssh.SSHWriter[bytes], data: bytes) -> None:
    with suppress(BrokenPipeError):  # it need not read what it is given
        writer.write(data)
        await writer.drain()
        writer.write_eof()
