"""The contract of an SSH server: commands, forwarding, and every way in which it turns somebody away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.words import Cause
from backends.engines.http import Http
from backends.engines.registry import ENGINES
from backends.engines.target import Target
from backends.errors import SshError
from backends.reach.nodes import NodeReach
from backends.reach.ssh import SshLink, target_of
from backends.reach.ssh_shell import SshShell
from backends.secrets import Secrets
from tests.contract.ssh_parts import SshPart, Sshs
from tests.contract.waiting import eventually
from tests.lab.parts import free_port

DIAL = ["docker", "system", "dial-stdio"]
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: docker\r\n\r\n"


@asynccontextmanager
async def linked(part: SshPart, *, limit: float = 10.0, **settings: Any) -> AsyncGenerator[SshShell, None]:
    """A shell over one connection."""
    link = SshLink(target_of(part.node(**settings)), connect_limit=limit)
    try:
        yield SshShell(link)
    finally:
        await link.close()


async def turned_away(part: SshPart, *, limit: float = 10.0, **settings: Any) -> SshError:
    """How an attempt to run a command fails."""
    async with linked(part, limit=limit, **settings) as shell:
        with pytest.raises(SshError) as caught:
            await shell.run(["true"], timeout=limit + 5)
    return caught.value


def file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


async def test_commands_have_status_both_outputs_and_their_words_unchanged(sshs: Sshs) -> None:
    async with sshs.serving() as part, linked(part) as shell:
        done = await shell.run(["echo", "it's; $HOME `id`"], timeout=10)
        assert (done.status, done.stdout, done.stderr) == (0, "it's; $HOME `id`\n", "")
        assert [(await shell.run([name], timeout=10)).status for name in ("true", "false")] == [0, 1]
        missing = await shell.run(["cat", "/no/such/file"], timeout=10)
        assert (missing.status, missing.stdout) == (1, "")
        assert "No such file or directory" in missing.stderr
        unknown = await shell.run(["no-such-command"], timeout=10)
        assert unknown.status == 127
        assert "not found" in unknown.stderr
        assert (await shell.run(["test", "-e", part.socket], timeout=10)).status == 0
        assert (await shell.run(["test", "-e", "/no/such/file"], timeout=10)).status == 1
        seconds = (await shell.run(["date", "+%s"], timeout=10)).stdout
        assert int(seconds) > 1_700_000_000


async def test_standard_input_reaches_the_command(sshs: Sshs) -> None:
    async with sshs.serving() as part, linked(part) as shell:
        assert (await shell.run(["cat"], stdin=b"given\n", timeout=10)).stdout == "given\n"


async def test_many_share_one_connection(sshs: Sshs) -> None:
    async with sshs.serving() as part, linked(part) as shell:
        done = await asyncio.gather(*(shell.run(["echo", str(n)], timeout=20) for n in range(20)))
        assert [d.stdout for d in done] == [f"{n}\n" for n in range(20)]


async def test_docker_is_reached_through_a_forwarded_socket(sshs: Sshs) -> None:
    async with sshs.serving() as part:
        node = part.node()
        inventory = Inventory.model_validate({"version": 1, "name": "c", "nodes": [node.model_dump()]})
        async with NodeReach(node, inventory, None, Secrets()) as reach:
            docker = await reach.runtime()
            assert await docker.version()
            assert isinstance(await docker.workloads(), tuple)
            await part.drops()

            async def answers_again() -> bool:
                """A loss that is just being noticed may still be told once."""
                try:
                    return bool(await docker.version())
                except SshError as error:
                    return unless(error, "dropped")

            await eventually(answers_again, "Docker answers over a new connection")


def unless(error: SshError, words: str) -> bool:
    """False for an error that may pass; any other is raised."""
    if words not in error.message:
        raise error
    return False


async def test_a_socket_that_is_not_there_is_told_from_one_that_refuses(sshs: Sshs) -> None:
    async with sshs.serving() as part:
        node = part.node().model_copy(update={"docker": None})
        gone = node.model_validate(node.model_dump() | {"docker": {"socket": "/no/such/docker.sock"}})
        inventory = Inventory.model_validate({"version": 1, "name": "c", "nodes": [gone.model_dump()]})
        async with NodeReach(gone, inventory, None, Secrets()) as reach:
            with pytest.raises(Exception, match=r"there is no socket /no/such/docker\.sock"):
                await (await reach.runtime()).version()


async def test_an_endpoint_is_reached_through_a_forwarded_port(sshs: Sshs, http: Http) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with sshs.serving() as part, server:
        ports = {"open": server.sockets[0].getsockname()[1], "closed": free_port()}
        ends = [
            {"name": n, "tier": "T", "node": "mark", "engine": "http", "url": f"http://127.0.0.1:{p}", "via": "ssh"}
            for n, p in ports.items()
        ]
        node = part.node()
        tables = {"version": 1, "name": "c", "nodes": [node.model_dump()], "tiers": [{"name": "T"}], "endpoints": ends}
        inventory = Inventory.model_validate(tables)
        async with NodeReach(node, inventory, None, Secrets()) as reach:
            causes = {}
            for end in inventory.endpoints:
                local = int((await reach.resolve_url(end)).rpartition(":")[2])
                target = Target(end.url, "http", timeout=10.0, via=("127.0.0.1", local))
                causes[end.name] = (await ENGINES["http"].probe(http, target, deep=True)).cause
            assert causes == {"open": Cause.OK, "closed": Cause.REFUSED}


async def test_an_unknown_host_key_is_refused(sshs: Sshs, tmp_path: Path) -> None:
    async with sshs.serving() as part:
        known = file(tmp_path, "known", "")
        error = await turned_away(part, known_hosts=known)
        assert f"the host key of 127.0.0.1:{part.port} is unknown (ssh-ed25519 SHA256:" in error.message
        assert f"ssh-keyscan -p {part.port} 127.0.0.1 >> {known}" in error.advice


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_a_changed_host_key_is_refused(sshs: Sshs, tmp_path: Path, kind: str) -> None:
    async with sshs.serving() as part:
        other = asyncssh.generate_private_key(kind).export_public_key().decode()
        known = file(tmp_path, "known", f"[127.0.0.1]:{part.port} {other}")
        error = await turned_away(part, known_hosts=known)
        assert f"the host key of 127.0.0.1:{part.port} has CHANGED" in error.message
        assert f"ssh-keygen -R '[127.0.0.1]:{part.port}' -f {known}" in error.advice


async def test_a_key_that_is_not_authorised_is_denied(sshs: Sshs, tmp_path: Path) -> None:
    async with sshs.serving() as part:
        stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        key = file(tmp_path, "stranger", stranger)
        error = await turned_away(part, key=key)
        assert f"127.0.0.1:{part.port} denies {part.settings['user']} (tried: {key})" in error.message
        assert "ssh-copy-id" in error.advice


async def test_a_drop_in_mid_stream_is_told_and_the_next_command_connects_anew(sshs: Sshs) -> None:
    async with sshs.serving() as part, linked(part) as shell:
        begun = asyncio.Semaphore(0)
        listening = [asyncio.create_task(listen(shell, begun)) for _ in range(2)]
        async with asyncio.timeout(20):
            for _ in listening:
                await begun.acquire()
        await part.drops()
        for task in listening:
            with pytest.raises(SshError, match="mark: the SSH connection was dropped") as caught:
                await task
            assert "opened anew" in caught.value.advice
        assert (await shell.run(["echo", "again"], timeout=10)).stdout == "again\n"


async def listen(shell: SshShell, begun: asyncio.Semaphore) -> None:
    """Read Docker's events until they end."""
    async with shell.pipe(DIAL) as (reader, writer):
        writer.write(EVENTS)
        while await reader.read(65536):
            begun.release()


async def test_a_session_too_many_is_refused_and_the_others_go_on(sshs: Sshs) -> None:
    async with sshs.serving(max_sessions=2) as part, linked(part) as shell:
        async with shell.pipe(DIAL) as (reader, writer), shell.pipe(DIAL):
            with pytest.raises(SshError, match="opens no further session") as caught:
                await shell.run(["true"], timeout=10)
            assert "MaxSessions" in caught.value.advice
            writer.write(PING)
            assert (await reader.read(65536)).startswith(b"HTTP/1.1 200 OK")

        async def runs() -> bool:
            """The server closes ended sessions a moment later."""
            try:
                return (await shell.run(["true"], timeout=10)).status == 0
            except SshError as error:
                return unless(error, "opens no further session")

        await eventually(runs, "a session can be had again")


async def test_a_server_that_refuses_hangs_and_returns(sshs: Sshs) -> None:
    async with sshs.serving() as part:
        await part.hangs()
        error = await turned_away(part, limit=0.5)
        assert "takes connections, but its SSH server said nothing useful for 0.5 s" in error.message
        await part.returns()
        await part.refuses()
        error = await turned_away(part)
        assert error.message == f"mark: 127.0.0.1:{part.port} refuses SSH."
        assert "start sshd" in error.advice
        await part.returns()
        async with linked(part) as shell:
            assert (await shell.run(["true"], timeout=10)).status == 0


async def test_leaving_a_stream_ends_its_command(sshs: Sshs) -> None:
    """Else a node would collect commands that nobody listens to."""
    async with sshs.serving(max_sessions=1) as part, linked(part) as shell:

        async def streams() -> bool:
            try:
                async with shell.pipe(DIAL) as (reader, writer):
                    writer.write(EVENTS)
                    return (await reader.read(65536)).startswith(b"HTTP/1.1 200 OK")
            except SshError as error:
                return unless(error, "opens no further session")

        for _ in range(3):
            await eventually(streams, "the only session is free again")


async def test_its_sftp_creates_a_file_for_one_only(sshs: Sshs) -> None:
    """The lease of a node that is reached by SSH."""
    async with sshs.serving() as part:
        link = SshLink(target_of(part.node()))
        try:
            connection = await link.connection()
            async with connection.start_sftp_client() as sftp:
                made = await asyncio.gather(*(claim(sftp, f"{part.folder}/lease") for _ in range(5)))
                assert sorted(made) == [False, False, False, False, True]
        finally:
            await link.close()


async def claim(sftp: asyncssh.SFTPClient, path: str) -> bool:
    try:
        async with sftp.open(path, "x") as lease:
            await lease.write("mine")
    except asyncssh.SFTPError:
        return False
    return True
