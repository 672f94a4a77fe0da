"""Wake-on-LAN: the packet's bytes, and that each way of sending it really sends it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from backends.errors import CommandError, WakeError
from backends.reach import wake
from backends.reach.local import LocalShell
from backends.reach.runtime import Completed

MAC = "AA:BB:CC:DD:EE:0F"
PACKET = b"\xff" * 6 + bytes.fromhex("aabbccddee0f") * 16


@pytest.fixture
def card() -> Iterator[socket.socket]:
    """A socket that hears every packet sent to its port on this machine's networks, as a network card would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("0.0.0.0", 0))
        listener.setblocking(False)
        yield listener


async def heard(card: socket.socket) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(card, 2048)


def port_of(card: socket.socket) -> int:
    port: int = card.getsockname()[1]
    return port


class Shell(LocalShell):
    """This machine with only some of its programs, and answers in place of others."""

    def __init__(self, folder: Path, *programs: str, answers: dict[str, Completed] | None = None) -> None:
        for name in programs:
            real = sys.executable if name == "python3" else shutil.which(name)
            (folder / name).write_text(f'#!/bin/sh\nexec {real} "$@"\n')
            (folder / name).chmod(0o755)
        super().__init__({"PATH": str(folder)})
        self.folder = folder
        self.answers = answers or {}
        self.ran: list[Sequence[str]] = []

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.ran.append(argv)
        if argv[0] in self.answers:
            return self.answers[argv[0]]
        if not (self.folder / argv[0]).exists():
            raise CommandError(f"{argv[0]} is not installed here, or not on the PATH.", status=127)
        return await super().run([str(self.folder / argv[0]), *argv[1:]], stdin=stdin, timeout=timeout)


@pytest.mark.parametrize("mac", ["AA:BB:CC:DD:EE:0F", "aa-bb-cc-dd-ee-0f", "AABBCCDDEE0F"])
def test_the_packet(mac: str) -> None:
    assert wake.magic_packet(mac) == PACKET
    assert len(PACKET) == 102


@pytest.mark.parametrize("mac", ["", "AA:BB:CC:DD:EE", "AA:BB-CC:DD:EE:0F", "AA:BB:CC:DD:EE:GG", "A:BB:CC:DD:EE:0F"])
def test_what_is_no_hardware_address(mac: str) -> None:
    with pytest.raises(ValueError, match="no hardware address"):
        wake.magic_packet(mac)


async def test_from_here(card: socket.socket) -> None:
    sent = await wake.send_here(MAC, ("127.255.255.255",), port=port_of(card))
    assert sent == ("127.255.255.255",)
    assert [await heard(card) for _ in range(wake.ROUNDS)] == [PACKET] * wake.ROUNDS


async def test_from_here_to_the_network_that_holds_the_node(card: socket.socket) -> None:
    sent = await wake.send_here(MAC, (), address="127.44.0.9", port=port_of(card))
    assert sent == ("127.255.255.255",)
    assert await heard(card) == PACKET


async def test_no_network_takes_it() -> None:
    with pytest.raises(WakeError, match="could not be sent from here") as caught:
        await wake.send_here(MAC, ("192.0.2.0.1",))
    assert "wake.via" in caught.value.advice
    with pytest.raises(WakeError, match="no network to send it to"):
        await wake.send_here(MAC, (), address="198.51.100.7")


@pytest.mark.parametrize(
    "program",
    ["python3", pytest.param("perl", marks=pytest.mark.skipif(shutil.which("perl") is None, reason="no perl here"))],
)
async def test_from_a_node_by_its_own_programs(program: str, card: socket.socket, tmp_path: Path) -> None:
    shell = Shell(tmp_path, program)
    said = await wake.send_from(shell, MAC, "127.0.0.9", os="linux", timeout=20, port=port_of(card))
    assert said == program
    assert await heard(card) == PACKET


async def test_from_a_node_by_a_tool(tmp_path: Path) -> None:
    shell = Shell(tmp_path, answers={"etherwake": Completed(0, "", ""), "perl": Completed(127, "", "sh: no perl")})
    assert await wake.send_from(shell, "aabbccddee0f", "10.0.0.9", os="macos", timeout=5) == "etherwake"
    assert shell.ran[-1] == ["etherwake", "aa:bb:cc:dd:ee:0f"]


async def test_from_windows_by_an_encoded_command(tmp_path: Path) -> None:
    shell = Shell(tmp_path, answers={"powershell": Completed(0, "", "")})
    assert await wake.send_from(shell, MAC, "10.0.0.9", os="windows", timeout=5) == "powershell"
    (argv,) = shell.ran
    assert argv[-2] == "-EncodedCommand"
    assert len(" ".join(argv)) < 8191


@pytest.mark.parametrize("os_", ["linux", "windows"])
async def test_a_node_that_has_nothing_for_it(os_: str, tmp_path: Path) -> None:
    with pytest.raises(WakeError, match="could not be sent") as caught:
        await wake.send_from(Shell(tmp_path), MAC, "10.0.0.9", os=os_, timeout=5)
    assert "Install one of these" in caught.value.advice


async def test_a_node_whose_program_fails(tmp_path: Path) -> None:
    answers = {"python3": Completed(1, "", "\x1b[31mNetwork is unreachable\n")}
    with pytest.raises(WakeError, match=r"python3: Network is unreachable"):
        await wake.send_from(Shell(tmp_path, answers=answers), MAC, "10.0.0.9", os="linux", timeout=5)


async def test_an_address_is_no_program(tmp_path: Path, card: socket.socket) -> None:
    shell = Shell(tmp_path, "python3")
    nasty = f'"); import os; os.mkdir("{tmp_path}/made"); ("'
    assert await wake.send_from(shell, MAC, nasty, os="linux", timeout=20, port=port_of(card)) == "python3"
    assert not (tmp_path / "made").exists()


async def test_a_node_that_hangs(tmp_path: Path) -> None:
    slow = tmp_path / "python3"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    os.chmod(slow, 0o755)
    with pytest.raises(WakeError, match=r"not sent within 0\.3 s"):
        await wake.send_from(Shell(tmp_path), MAC, "10.0.0.9", os="linux", timeout=0.3)
