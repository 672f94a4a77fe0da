"""The node's docker command, as far as a console uses it: the bridge to its socket, and its version."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from backends.simulator import docker_shapes
from backends.simulator.terminal import Command, Terminal, options, words


class DockerCommands:
    """Talks to the engine at `socket`."""

    def __init__(self, socket: Path, is_up: Callable[[], bool]) -> None:
        self._docker_socket = socket
        self._docker_is_up = is_up

    def known(self) -> dict[str, Command]:
        """The commands by name."""
        return {"docker": self._docker}

    async def _docker(self, argv: list[str], terminal: Terminal) -> int:
        given = words(argv)
        if given[:2] == ["system", "dial-stdio"]:
            return await self._dial_stdio(terminal)
        if given[:1] == ["version"]:
            if not self._docker_is_up():
                await terminal.complain(
                    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
                    "Is the docker daemon running?\n"
                )
                return 1
            both = {"Client": {"Version": docker_shapes.VERSION}, "Server": docker_shapes.version()}
            form = options(argv).get("--format", "")
            await terminal.write(docker_shapes.VERSION + "\n" if ".Server.Version" in form else json.dumps(both) + "\n")
            return 0
        await terminal.complain(f"docker: '{' '.join(given)}' is not a docker command.\nSee 'docker --help'\n")
        return 1

    async def _dial_stdio(self, terminal: Terminal) -> int:
        """Bridge standard input and output to the engine's socket."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._docker_socket))
        except OSError as error:
            await terminal.complain(f"unable to dial: dial unix /var/run/docker.sock: {error.strerror}\n")
            return 1

        async def up() -> None:
            while data := await terminal.read(65536):
                writer.write(data)
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.write_eof()

        sending = asyncio.ensure_future(up())
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    await terminal.write(data)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()
        return 0
