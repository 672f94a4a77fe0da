from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import asyncssh
import pytest
from pydantic import SecretStr

from backends.cluster.tables import Node
from backends.errors import CommandError, SecretError, SshError
from backends.reach.ssh import SshLink, target_of
from backends.reach.ssh_shell import SshShell
from tests.reach.conftest import Server, linked, tcp_server, until


async def failure(node: Node, *, limit: float = 5.0, **options: object) -> SshError:
    """How logging in on `node` fails."""
    async with linked(node, connect_limit=limit, **options) as (_, shell):
        with pytest.raises(SshError) as caught:
            await shell.run(["say", "", "", "0"], timeout=limit + 5)
    return caught.value


async def test_run_gives_status_both_outputs_and_stdin(server: Server) -> None:
    async with linked(server.node()) as (_, shell):
        done = await shell.run(["say", "it's; $HOME `out`\n", "err", "3"], timeout=5)
        assert (done.status, done.stdout, done.stderr) == (3, "it's; $HOME `out`\n", "err")
        assert (await shell.run(["cat"], stdin=b"to standard input", timeout=5)).stdout == "to standard input"
        assert (await shell.run(["bytes", "6fff6b"], timeout=5)).stdout == "o\ufffdk"
        assert (await shell.run(["nothing"], timeout=5)).status == 127


async def test_one_connection_however_many_ask(server: Server) -> None:
    async with linked(server.node()) as (_, shell):
        done = await asyncio.gather(*(shell.run(["say", str(n), "", "0"], timeout=10) for n in range(20)))
        assert [d.stdout for d in done] == [str(n) for n in range(20)]
        assert server.logins == 1


async def test_a_waiter_that_gives_up_does_not_end_the_attempt_of_others(server: Server) -> None:
    async with linked(server.node()) as (link, _):
        impatient, patient = asyncio.create_task(link.connection()), asyncio.create_task(link.connection())
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert server.logins == 1


async def test_lines_come_as_they_are_written_and_leaving_ends_the_command(server: Server) -> None:
    async with linked(server.node()) as (_, shell):
        async with shell.lines(["count", "2"]) as lines:
            assert [await anext(lines), await anext(lines)] == ["line 0", "line 1"]
        await until(lambda: server.killed == ["count"])
        assert (await shell.run(["say", "alive", "", "0"], timeout=5)).stdout == "alive"


async def test_lines_of_a_command_that_fails_end_with_its_words(server: Server) -> None:
    async with linked(server.node()) as (_, shell), shell.lines(["say", "one\ntwo", "disk full\n", "4"]) as lines:
        assert [await anext(lines), await anext(lines)] == ["one", "two"]
        with pytest.raises(CommandError, match="disk full") as caught:
            await anext(lines)
        assert caught.value.status == 4


async def test_time_limit_ends_the_command(server: Server) -> None:
    async with linked(server.node()) as (_, shell):
        await shell.run(["say", "", "", "0"], timeout=5)
        with pytest.raises(TimeoutError, match=r"`hang` did not end within 1 s on mark"):
            await shell.run(["hang"], timeout=1.0)
        await until(lambda: server.killed == ["hang"])
        assert server.signals == ["KILL"]


async def test_a_dropped_connection_reaches_all_who_wait_and_the_next_use_connects_anew(server: Server) -> None:
    async with linked(server.node()) as (link, shell):
        async with shell.lines(["count", "1"]) as lines:
            await anext(lines)
            waiting = [asyncio.create_task(shell.run(["hang"], timeout=20)) for _ in range(3)]
            await until(lambda: server.ran.count("hang") == 3)
            server.drop()
            for task in waiting:
                with pytest.raises(SshError, match="mark: the SSH connection was dropped"):
                    await task
            with pytest.raises(SshError, match="dropped"):
                await anext(lines)
        assert not link.connected
        assert (await shell.run(["say", "again", "", "0"], timeout=5)).stdout == "again"
        assert server.logins == 2


async def test_a_connection_lost_while_a_command_is_asked_for_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object, **__: object) -> None:
        raise asyncssh.ConnectionLost("Connection lost")

    async with linked(server.node()) as (_, shell):
        monkeypatch.setattr(asyncssh.SSHClientConnection, "create_process", lost)
        with pytest.raises(SshError, match="mark: the SSH connection was dropped"):
            await shell.run(["say", "", "", "0"], timeout=5)


async def test_a_line_that_is_dead_without_a_word_is_noticed(server: Server) -> None:
    """A peer that acknowledges nothing any more: the keepalive finds out, not the person."""
    stalled = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if not stalled.is_set():
                    target.write(data)

        try:
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        finally:
            far_writer.close()

    async with tcp_server(relay) as port:
        public = server.host_key.export_public_key().decode()
        (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
        async with linked(server.node(port=port), keepalive=0.1) as (_, shell):
            waiting = asyncio.create_task(shell.run(["hang"], timeout=20))
            await until(lambda: server.ran == ["hang"])
            stalled.set()
            with pytest.raises(SshError, match=r"dropped .*keepalive"):
                await waiting


async def test_unknown_host_key(server: Server) -> None:
    server.trust().unlink()
    error = await failure(server.node())
    fingerprint = server.host_key.get_fingerprint()
    assert "mark: the host key of 127.0.0.1" in error.message
    assert "unknown" in error.message
    assert fingerprint in error.message
    assert "Compare the fingerprint" in error.advice
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {server.folder}/known_hosts" in error.advice
    assert server.logins == 0


async def test_changed_host_key(server: Server) -> None:
    server.trust(asyncssh.generate_private_key("ssh-ed25519"))
    error = await failure(server.node())
    assert "CHANGED" in error.message
    assert "man in the middle" in error.message
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in error.advice
    assert server.logins == 0


async def test_host_key_of_another_kind_counts_as_changed(server: Server) -> None:
    server.trust(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    assert "CHANGED" in (await failure(server.node())).message


async def test_revoked_host_key(server: Server) -> None:
    path = server.trust()
    path.write_text(f"{path.read_text()}@revoked {path.read_text()}")
    assert "revoked" in (await failure(server.node())).message


async def test_known_hosts_that_is_no_such_file(server: Server) -> None:
    (server.folder / "known_hosts").write_text("@nonsense 127.0.0.1 ssh-ed25519 AAAA\n")
    error = await failure(server.node())
    assert "known_hosts cannot be read: Invalid known hosts marker: nonsense" in error.message


async def test_denied_names_the_user_and_what_was_tried(server: Server) -> None:
    error = await failure(server.node(user="root"))
    assert f"denies root (tried: {server.folder}/key)" in error.message
    assert f"ssh-copy-id -p {server.port} root@127.0.0.1" in error.advice


async def test_denied_without_any_key(server: Server) -> None:
    assert "no key: none was found in ~/.ssh, and no agent runs" in (await failure(server.node(key=None))).message


async def test_denied_with_the_usual_keys(server: Server, own_home: Path) -> None:
    (own_home / ".ssh").mkdir()
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(own_home / ".ssh/id_ed25519"))
    assert "(tried: ~/.ssh/id_ed25519)" in (await failure(server.node(key=None))).message


async def test_locked_key(server: Server) -> None:
    server.key.write_private_key(str(server.folder / "locked"), format_name="pkcs8-pem", passphrase="words")
    error = await failure(server.node(key=str(server.folder / "locked")))
    assert "locked with a passphrase" in error.message
    assert f"ssh-add {server.folder}/locked" in error.advice


async def test_key_file_that_is_not_there_or_no_key(server: Server) -> None:
    assert "there is no key file /no/such/key" in (await failure(server.node(key="/no/such/key"))).message
    (server.folder / "rubbish").write_text("rubbish")
    assert "rubbish cannot be used" in (await failure(server.node(key=str(server.folder / "rubbish")))).message


async def test_password_by_reference(server: Server) -> None:
    server.password = "right"
    asked = 0

    async def password() -> SecretStr:
        nonlocal asked
        asked += 1
        return SecretStr("right")

    node = server.node(key=None, password="env:MARK")
    async with linked(node, password=password) as (_, shell):
        assert asked == 0
        assert (await shell.run(["say", "in", "", "0"], timeout=5)).stdout == "in"

    async def wrong() -> SecretStr:
        return SecretStr("wrong-password")

    error = await failure(node, password=wrong)
    assert "tried: the password" in error.message
    assert "wrong-password" not in str(error)

    async def none() -> SecretStr:
        raise SecretError("env:MARK is empty or not set.", "Set it.")

    assert (await failure(node, password=none)).message == "mark: env:MARK is empty or not set."


async def test_refused(server: Server) -> None:
    await server.close()
    error = await failure(server.node())
    assert error.message == f"mark: 127.0.0.1:{server.port} refuses SSH."
    assert "start sshd" in error.advice


async def test_server_that_says_nothing(server: Server) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with tcp_server(mute) as port:
        error = await failure(server.node(port=port), limit=0.3)
        assert "takes connections, but its SSH server said nothing useful for 0.3 s" in error.message


async def test_time_limit_of_a_command_says_what_it_waited_for(server: Server) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with tcp_server(mute) as port, linked(server.node(port=port)) as (_, shell):
        with pytest.raises(SshError, match=r"said nothing useful for 0\.2 s"):
            await shell.run(["say", "", "", "0"], timeout=0.2)


async def test_address_that_swallows_everything(server: Server) -> None:
    with socket.socket() as swallowing:
        swallowing.bind(("127.0.0.1", 0))
        swallowing.listen(0)
        port = swallowing.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:  # the backlog is full after these, and Linux then drops what comes
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            error = await failure(server.node(port=port), limit=0.3)
        finally:
            for filler in fillers:
                filler.close()
    assert "did not answer within 0.3 s" in error.message


async def test_something_else_listens_there(server: Server) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with tcp_server(http) as port:
        assert "said nothing useful" in (await failure(server.node(port=port), limit=0.5)).message

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        return

    async with tcp_server(close) as port:
        assert "closed the connection before the login" in (await failure(server.node(port=port))).message


async def test_server_without_further_sessions(server: Server) -> None:
    async with linked(server.node()) as (_, shell):
        server.max_sessions = 1
        await shell.run(["say", "", "", "0"], timeout=5)
        with pytest.raises(SshError, match="opens no further session") as caught:
            await shell.run(["say", "", "", "0"], timeout=5)
        assert "MaxSessions" in caught.value.advice


async def test_own_limit_of_sessions(server: Server) -> None:
    async with linked(server.node(), sessions=2) as (_, shell), shell.lines(["hang"]), shell.lines(["hang"]):
        with pytest.raises(SshError, match="all 2 SSH sessions are in use"):
            await shell.run(["say", "", "", "0"], timeout=0.2)
    async with linked(server.node(), sessions=2) as (_, shell):
        for _ in range(5):
            with pytest.raises((TimeoutError, SshError)):  # given up while it runs, or before it could begin
                await shell.run(["hang"], timeout=0.05)
        assert (await shell.run(["say", "free", "", "0"], timeout=5)).stdout == "free"


async def test_node_without_ssh() -> None:
    with pytest.raises(SshError, match=r"nas is not reached: no ssh in cluster\.toml"):
        target_of(Node(name="nas", address="10.0.0.9"))


async def test_forwarded_socket_outlives_the_connection_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    remote = await asyncio.start_unix_server(echo, tmp_path / "remote")
    async with linked(server.node()) as (link, _), remote:
        path, bridge = await link.forward_socket(str(tmp_path / "remote"))
        folder = Path(path).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n"
            writer.close()
            server.drop()
            await until(lambda: not link.connected)
        assert server.logins == 2
        await bridge.close()
        assert not folder.exists()


async def test_forwarded_port_says_why_it_closed(server: Server) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi")
        await writer.drain()

    async with linked(server.node()) as (link, _):
        async with tcp_server(greet) as port:
            local, bridge = await link.forward_port("127.0.0.1", port)
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            assert await reader.read() == b"hi"
            writer.close()
            assert bridge.failure is None
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        assert await reader.read() == b""
        writer.close()
        assert "cannot be opened on mark" in str(bridge.failure)
        await bridge.close()


async def test_closed_link_opens_nothing_more(server: Server) -> None:
    link = SshLink(target_of(server.node()))
    await link.close()
    with pytest.raises(SshError, match="closed"):
        await SshShell(link).run(["say", "", "", "0"], timeout=5)
    assert server.logins == 0
