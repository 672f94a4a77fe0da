"""A desktop login that is proven without a session, with a client of ours in FreeRDP's place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from backends.errors import RdpError
from backends.reach.rdp_login import HELD_BACK, _late_answers, prove_login
from tests.reach.test_rdp import HEAD, NLA, PASSWORD, alive, client, login

STATE = f"{HEAD}[DEBUG][com.freerdp.core.connection] - rdp_client_transition_to_state CONNECTION_STATE_"
ACCEPTED = [NLA[0], f"{STATE}NEGO --> CONNECTION_STATE_NLA", f"{STATE}NLA --> CONNECTION_STATE_MCS_CONNECT"]
BROKEN = [*ACCEPTED[:2], f"{STATE}NLA --> CONNECTION_STATE_INITIAL", f"{HEAD}[ERROR][core] - the line is cut"]
REFUSED = [*ACCEPTED[:2], f"{HEAD}[ERROR][com.freerdp.core] - nla_recv_pdu ERRCONNECT_LOGON_FAILURE [0x00020014]"]
NO_NLA = [f"{HEAD}[ERROR][com.freerdp.core] - ERRCONNECT_SECURITY_NEGO_CONNECT_FAILED [0x0002000C]"]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A port that says back what it hears."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_the_client_ends_as_soon_as_the_login_is_accepted(port: int, tmp_path: Path) -> None:
    made = client(tmp_path, *ACCEPTED)
    await prove_login(made, "127.0.0.1", login(port), SecretStr(PASSWORD), pins=tmp_path / "pins")
    said = (tmp_path / "argv").read_text().splitlines()
    assert {f"/v:127.0.0.1:{port}", "+auth-only", "/sec:nla", "/cert:tofu", "/from-stdin:force"} < set(said)
    assert "hunter2" not in "\n".join(said) + (tmp_path / "env").read_text()
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("lines", "fault", "words"),
    [
        (REFUSED, "password", "refuses the user name or the password"),
        (BROKEN, "ended", "the login broke off .the line is cut."),
        (NO_NLA, "negotiation", "NLA is not offered there"),
    ],
)
async def test_what_is_not_proven(lines: list[str], fault: str, words: str, port: int, tmp_path: Path) -> None:
    made = client(tmp_path, *lines, then="exit 1")
    with pytest.raises(RdpError, match=words) as caught:
        await prove_login(made, "127.0.0.1", login(port), SecretStr("x"), pins=tmp_path / "pins")
    assert caught.value.fault == fault
    assert caught.value.advice


async def test_a_login_that_is_not_answered(port: int, tmp_path: Path) -> None:
    made = client(tmp_path, *ACCEPTED[:2])
    with pytest.raises(RdpError, match=r"neither accepted nor refused within 0\.3 s"):
        await prove_login(made, "127.0.0.1", login(port), SecretStr("x"), pins=tmp_path / "pins", limit=0.3)
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_answers_come_late_so_that_no_session_begins_before_the_client_is_ended(port: int) -> None:
    async with _late_answers("127.0.0.1", port) as ours:
        reader, writer = await asyncio.open_connection("127.0.0.1", ours)
        writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        writer.write(b"login")
        assert await reader.readexactly(5) == b"login"
        assert time.monotonic() - began >= HELD_BACK
    assert await reader.read() == b""
    writer.close()
