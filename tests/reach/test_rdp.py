"""Desktop sessions with a client of ours in FreeRDP's place, which speaks its words; the lab has the real one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from backends.cluster.tables import Rdp
from backends.errors import RdpError
from backends.reach.rdp import Client, desktop, find_client, missing_words
from backends.reach.rdp_words import Progress, failure

PASSWORD = "hunter2 'quoted' \"twice\" $HOME"
HEAD = "[16:12:40:103] [30490:30521] "
TLS = [
    f"Password: {HEAD}[DEBUG][com.freerdp.core.nego] - Negotiated TLS security",
    f"{HEAD}[WARN][com.freerdp.crypto] - Certificate verification failure 'self-signed certificate (18)' at stack pos",
    f"{HEAD}[DEBUG][com.freerdp.core.connection] - rdp_client_transition_to_state CONNECTION_STATE_FINALIZATION --> "
    "CONNECTION_STATE_ACTIVE",
    f"{HEAD}[INFO][com.freerdp.gdi] - Local framebuffer format  PIXEL_FORMAT_BGRX32",
]
CHANNEL = f"{HEAD}[DEBUG][com.freerdp.channels.rdpdr.client] - [RDPDR] transition from "
READY = f"{CHANNEL}RDPDR_CHANNEL_STATE_CLIENTID_CONFIRM to RDPDR_CHANNEL_STATE_READY"
SAVED = f"{HEAD}[DEBUG][com.freerdp.core.rdp] - recv Save Session Info Data PDU (0x26), length: 600"
NLA = [line.replace("TLS security", "NLA security") for line in TLS]
LAUNCH = """
import asyncio, sys
from pathlib import Path
from pydantic import SecretStr
from backends.cluster.tables import Rdp
from backends.reach.rdp import Client, desktop

async def main():
    login = Rdp(user="ops", password="env:X", port=int(sys.argv[2]))
    client = Client(sys.argv[1], None)
    async with desktop("127.0.0.1", login, SecretStr("x"), pins=Path(sys.argv[3]), client=client):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A port that takes connections, as a desktop service does."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def client(folder: Path, *lines: str, then: str = "exec sleep 60") -> Client:
    """A client that writes down how it was called, says these lines, and goes on with a line of shell."""
    said = "".join(f"{line}\n" for line in lines)
    (folder / "said").write_text(said)
    program = folder / "xfreerdp"
    program.write_text(
        f"#!/bin/sh\necho $$ > {folder}/pid\nprintf '%s\\n' \"$@\" > {folder}/argv\nenv > {folder}/env\n"
        f"cat > {folder}/stdin\ncat {folder}/said >&2\n{then}\n"
    )
    program.chmod(0o755)
    return Client(str(program), None)


def login(port: int) -> Rdp:
    return Rdp(user="ops", password="env:X", port=port)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_session_is_held_and_left(port: int, tmp_path: Path) -> None:
    made = client(tmp_path, *TLS, READY)
    pins = tmp_path / "pins"
    environment = {"PATH": os.environ["PATH"], "LITELLM_KEY": "another-secret", "DISPLAY": ":7"}
    async with desktop(
        "127.0.0.1", login(port), SecretStr(PASSWORD), pins=pins, client=made, environment=environment
    ) as session:
        assert session.alive
        session.check()
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        assert (tmp_path / "stdin").read_text() == f"{PASSWORD}\n"
        arguments, inherited = (tmp_path / "argv").read_text(), (tmp_path / "env").read_text()
        assert {f"/v:127.0.0.1:{port}", "/u:ops", "/from-stdin:force", "/cert:tofu"} < set(arguments.splitlines())
        assert "hunter2" not in arguments + inherited
        assert "another-secret" not in inherited
        assert {"DISPLAY=:7", f"HOME={pins}"} < set(inherited.splitlines())
    assert not alive(pid)
    assert pins.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("lines", "begun"),
    [
        (TLS, False),
        ([*TLS, READY], True),
        ([*TLS, SAVED], True),
        (NLA, True),
        (NLA[:1], False),
        ([*TLS, f"{CHANNEL}RDPDR_CHANNEL_STATE_INITIAL to RDPDR_CHANNEL_STATE_ANNOUNCE"], False),
    ],
)
def test_when_a_session_has_begun(lines: list[str], begun: bool) -> None:
    progress = Progress()
    for line in lines:
        progress.hear(line)
    assert progress.begun is begun


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[ERROR][com.freerdp.core] - nla_recv_pdu ERRCONNECT_LOGON_FAILURE [0x00020014]", "password"),
        ("[ERROR][com.freerdp.core] - x: ERRCONNECT_PASSWORD_EXPIRED [0x0002000E]", "password"),
        ("[INFO][com.freerdp.client.x11] - Logon Error Info LOGON_FAILED_BAD_PASSWORD [LOGON_MSG_X]", "password"),
        ("[ERROR][com.freerdp.core] - x: ERRCONNECT_ACCOUNT_LOCKED_OUT [0x00020018]", "locked"),
        ("[ERROR][com.freerdp.core] - x: ERRCONNECT_ACCOUNT_DISABLED [0x00020012]", "locked"),
        ("[ERROR][com.freerdp.core] - x ERRCONNECT_INSUFFICIENT_PRIVILEGES [0x00020002]", "refused"),
        ("[ERROR][com.freerdp.crypto] - Host key verification failed.", "certificate"),
        ("[ERROR][com.freerdp.core] - ERRCONNECT_SECURITY_NEGO_CONNECT_FAILED [0x0002000C]", "negotiation"),
        ("[ERROR][com.freerdp.core] - ERRINFO_DISCONNECTED_BY_OTHER_CONNECTION (0x00000005)", "replaced"),
        ("[ERROR][com.freerdp.core] - \x1b[31mthe pipe broke\x1b[0m", "ended"),
    ],
)  # fmt: skip
def test_failures_have_names(line: str, fault: str) -> None:
    error = failure([*TLS, HEAD + line], "ops on mark:3389", "/state/rdp")
    assert error.fault == fault
    assert error.message.startswith(("ops on mark", "The "))
    assert "\x1b" not in str(error) + error.why
    assert not error.why.startswith("[")


async def test_a_client_that_fails_at_once(port: int, tmp_path: Path) -> None:
    made = client(tmp_path, *NLA[:1], f"{HEAD}[ERROR][core] - ERRCONNECT_LOGON_FAILURE [0x00020014]", then="exit 132")
    with pytest.raises(RdpError, match="refuses the user name or the password") as caught:
        async with desktop("127.0.0.1", login(port), SecretStr("x"), pins=tmp_path / "pins", client=made):
            pass
    assert caught.value.fault == "password"


async def test_a_session_that_the_node_ends(port: int, tmp_path: Path) -> None:
    gone = (
        f'while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo "{HEAD}[ERROR][core] - the line is cut" >&2; exit 1'
    )
    made = client(tmp_path, *NLA, then=gone)
    async with desktop("127.0.0.1", login(port), SecretStr("x"), pins=tmp_path / "pins", client=made) as session:
        (tmp_path / "go").touch()
        await until(lambda: not session.alive)
        with pytest.raises(RdpError, match="ended: the line is cut") as caught:
            session.check()
        assert caught.value.fault == "ended"


async def test_no_session_in_time(port: int, tmp_path: Path) -> None:
    for lines, fault in ((TLS, "password"), (TLS[:1], "timeout")):
        made = client(tmp_path, *lines)
        with pytest.raises(RdpError) as caught:
            async with desktop(
                "127.0.0.1", login(port), SecretStr("x"), pins=tmp_path / "pins", client=made, limit=0.5
            ):
                pass
        assert caught.value.fault == fault
        assert not alive(int((tmp_path / "pid").read_text()))


async def test_nobody_takes_the_connection(port: int, tmp_path: Path) -> None:
    made = client(tmp_path, *NLA)
    with pytest.raises(RdpError, match="takes no RDP connection: Connection refused") as caught:
        async with desktop("127.0.0.1", login(1), SecretStr("x"), pins=tmp_path / "pins", client=made):
            pass
    assert caught.value.fault == "refused"
    assert not (tmp_path / "argv").exists()
    with pytest.raises(RdpError, match="more than one line"):
        async with desktop("127.0.0.1", login(port), SecretStr("a\nb"), pins=tmp_path / "pins", client=made):
            pass


async def test_a_client_that_cannot_be_run(port: int, tmp_path: Path) -> None:
    with pytest.raises(RdpError, match="No such file or directory"):
        async with desktop(
            "127.0.0.1", login(port), SecretStr("x"), pins=tmp_path / "pins", client=Client("/no/xfreerdp", None)
        ):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("victim", ["we", "keeper"])
async def test_the_client_dies_with_us(victim: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = client(tmp_path, *NLA)
    command = [sys.executable, "-c", LAUNCH, made.program, str(port), str(tmp_path / "pins")]
    we = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert we.stdout is not None
        assert await we.stdout.readline() == b"held\n"
        pid = int((tmp_path / "pid").read_text())
        parent = parent_of(pid)
        os.kill(we.pid if victim == "we" else parent, signal.SIGKILL)
        await until(lambda: not alive(pid))
        await until(lambda: not alive(parent))
    finally:
        if we.returncode is None:
            we.kill()
        await we.wait()


def test_what_is_found() -> None:
    def having(*names: str) -> Callable[[str], str | None]:
        return lambda name: f"/usr/bin/{name}" if name in names else None

    def find(*names: str, **environment: str) -> Client | None:
        return find_client(environment, which=having(*names))

    assert find("xfreerdp", "Xvfb") == Client("/usr/bin/xfreerdp", "/usr/bin/Xvfb")
    assert find("xfreerdp", "xfreerdp3", "Xvfb", DISPLAY=":0") == Client("/usr/bin/xfreerdp3", "/usr/bin/Xvfb")
    assert find("sdl-freerdp", DISPLAY=":0") == Client("/usr/bin/sdl-freerdp", None)
    assert find("xfreerdp") is None
    assert find("Xvfb", DISPLAY=":0") is None
    assert "xvfb" in missing_words(which=having("xfreerdp"))[1]
    assert "freerdp" in missing_words(which=having("Xvfb"))[1]
