"""A login by NLA is proven against FreeRDP's own server, and no session is opened by that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from backends.cluster.tables import Rdp
from backends.errors import RdpError
from backends.reach.local import LocalShell
from backends.reach.rdp import find_client
from backends.reach.rdp_login import prove_login
from tests.lab.cache import require
from tests.lab.process import Kept, free_port, listens

PASSWORD, HASHED = "pw123", "8961126dfb61192952269f15e7a310d7"
"""A password and its MD4, as NTLM wants it."""

SESSION = "activated"
"""What the server says of a client whose session begins."""


class Shadow(Kept):
    """A desktop service that wants NLA, with a screen of its own to share."""

    def __init__(self, folder: Path) -> None:
        """`folder` is its home."""
        self.port, screen = free_port(), f":{os.getpid() % 10_000 + 300}"
        sam = folder / "sam"
        sam.write_text(f"ops:::{HASHED}:::\n")
        server = (
            f'Xvfb {screen} -screen 0 800x600x24 -nolisten tcp & while ! [ -e "/tmp/.X11-unix/X{screen[1:]}" ]; do '
            f"sleep 0.05; done; exec freerdp-shadow-cli /port:{self.port} /bind-address:127.0.0.1 /sec:nla +auth "
            f"/sam-file:{sam}"
        )
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DISPLAY": screen}
        environment |= {"WLOG_APPENDER": "file", "WLOG_FILEAPPENDER_OUTPUT_FILE_PATH": "/dev"}
        environment |= {"WLOG_FILEAPPENDER_OUTPUT_FILE_NAME": "stderr"}
        super().__init__(["sh", "-c", server], folder / "shadow.log", env=environment)

    def ready(self) -> None:
        """Waits until it listens."""
        self.wait_until(lambda: listens("127.0.0.1", self.port), 20, "the desktop service listens")


@pytest.fixture(scope="module")
def shadow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shadow]:
    require("nla")
    with Shadow(tmp_path_factory.mktemp("shadow")) as made:
        yield made


async def prove(shadow: Shadow, password: str, pins: Path) -> None:
    client = find_client()
    assert client is not None
    login = Rdp(user="ops", password="env:X", port=shadow.port)
    await prove_login(client, "127.0.0.1", login, SecretStr(password), pins=pins)


async def test_a_right_password_is_proven_and_no_session_begins(shadow: Shadow, tmp_path: Path) -> None:
    for _ in range(5):
        await prove(shadow, PASSWORD, tmp_path / "pins")
    assert SESSION not in shadow.log.read_text()
    assert any((tmp_path / "pins").rglob("*")), "its certificate is pinned"


async def test_a_wrong_one_is_not(shadow: Shadow, tmp_path: Path) -> None:
    with pytest.raises(RdpError, match=r"the login broke off|refuses"):
        await prove(shadow, "wrong", tmp_path / "pins")


async def test_freerdps_own_way_would_open_one(shadow: Shadow, tmp_path: Path) -> None:
    """Were this to fail, `/auth-only` had become what its name says, and rdp_login.py could be simpler."""
    client = find_client()
    assert client is not None
    said = [f"/v:127.0.0.1:{shadow.port}", "/u:ops", "/from-stdin:force", "/cert:ignore", "+auth-only"]
    program = (
        f"export HOME={tmp_path}; Xvfb -displayfd 3 3>{tmp_path}/number & pid=$!; while ! [ -s {tmp_path}/number ]; "
        f'do sleep 0.05; done; DISPLAY=:$(cat {tmp_path}/number) {client.program} "$@"; kill $pid'
    )
    await LocalShell().run(["sh", "-c", program, "sh", *said], stdin=f"{PASSWORD}\n".encode(), timeout=30)
    assert SESSION in shadow.log.read_text()
