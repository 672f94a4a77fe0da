"""Wake-on-LAN: the packet that a sleeping machine's network card waits for, sent from here or from another node.

Nobody answers it: whether it was heard shows only when the machine does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Final

import psutil

from backends.errors import CommandError, WakeError
from backends.reach.runtime import Shell
from backends.reach.services_words import powershell
from backends.reach.streams import first_words

PORT: Final = 9
"""Discard, where cards expect it by custom; they look at the frame and not at the port."""

ROUNDS: Final = 3
"""How often the packet is sent: nobody repeats a lost one."""

PAUSE: Final = 0.1
"""Seconds between two of them."""

EVERYBODY: Final = "255.255.255.255"

_RESOLVE_LIMIT: Final = 2.0
_TIME_LIMIT: Final = 10.0
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4}|[0-9A-Fa-f]{10})")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")


def magic_packet(mac: str) -> bytes:
    """Six bytes of FF and sixteen times the address (AMD, "Magic Packet Technology"); ValueError if it is none."""
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{mac!r} is no hardware address")
    return b"\xff" * 6 + bytes.fromhex(re.sub("[:-]", "", mac)) * 16


async def send_here(
    mac: str, broadcast: Sequence[str] = (EVERYBODY,), *, address: str | None = None, port: int = PORT
) -> tuple[str, ...]:
    """Send the packet from this machine, and say whereto; WakeError where no network takes it.

    With the `address` of the node it goes to the networks of ours that hold it, too: a broadcast to everybody leaves
    by the default route alone, which need not lead there.
    """
    packet = magic_packet(mac)
    ways = [("0.0.0.0", target) for target in broadcast]
    if address is not None and (found := await _resolve(address)) is not None:
        ways += [(ours, target) for ours, net in _networks(found) for target in (*broadcast, net)]
    ways = list(dict.fromkeys(ways))
    failures: dict[tuple[str, str], OSError] = {}
    for round_ in range(ROUNDS):
        if round_:
            await asyncio.sleep(PAUSE)
        for way in ways:
            try:
                await _send(packet, *way, port)
            except OSError as error:
                failures[way] = error
    sent = tuple(dict.fromkeys(target for source, target in ways if (source, target) not in failures))
    if not sent:
        why = next((error.strerror or str(error) for error in failures.values()), "there is no network to send it to")
        raise WakeError(
            f"The Wake-on-LAN packet for {mac} could not be sent from here: {why}.",
            "Is this machine on the node's LAN? Otherwise name a node that is: wake.via.",
        )
    return sent


async def _send(packet: bytes, source: str, target: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.bind((source, 0))  # Linux sends a broadcast to everybody by the interface that has this address
        await asyncio.get_running_loop().sock_sendto(sender, packet, (target, port))


async def _resolve(address: str) -> ipaddress.IPv4Address | None:
    """The node's IPv4 address; None where it has none or its name is not known while it sleeps."""
    try:
        async with asyncio.timeout(_RESOLVE_LIMIT):
            found = await asyncio.get_running_loop().getaddrinfo(address, None, family=socket.AF_INET)
    except (OSError, TimeoutError, UnicodeError):
        return None
    return ipaddress.IPv4Address(found[0][4][0])


async def way_from_here(address: str) -> bool:
    """Whether a network of this machine holds the node's address, so that a packet gets there; nothing is sent."""
    found = await _resolve(address)
    return found is not None and bool(_networks(found))


def _networks(address: ipaddress.IPv4Address) -> list[tuple[str, str]]:
    """Of each network of this machine that holds the address: our address in it, and its broadcast address."""
    found = []
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family == socket.AF_INET and entry.netmask:
                network = ipaddress.IPv4Network(f"{entry.address}/{entry.netmask}", strict=False)
                if address in network and network.prefixlen < 31:
                    found.append((entry.address, str(network.broadcast_address)))
    return found


async def send_from(
    shell: Shell, mac: str, address: str, *, os: str = "linux", timeout: float = _TIME_LIMIT, port: int = PORT
) -> str:
    """Send the packet from the node behind `shell` by what it has there, and say by what.

    WakeError where it has nothing for it, or nothing works; SshError where that node itself is not reached.
    """
    packet = magic_packet(mac).hex()
    host = address if _HOST.fullmatch(address) else ""  # it becomes part of a program; IPv6 has no broadcast anyway
    said = ""
    try:
        async with asyncio.timeout(timeout):
            for argv, program in _attempts(os, packet, mac, host, port):
                try:
                    done = await shell.run(argv, stdin=program.encode(), timeout=timeout)
                except CommandError as error:
                    if error.status != 127:
                        said += f" {argv[0]}: {error.message}"
                    continue
                if done.status == 0:
                    return argv[0]
                if done.status != 127:
                    said += f" {argv[0]}: {first_words(done.stderr) or f'status {done.status}'};"
    except TimeoutError:
        raise WakeError(
            f"The Wake-on-LAN packet for {mac} was not sent within {timeout:g} s.", "Does the node of wake.via hang?"
        ) from None
    tools = "PowerShell" if os == "windows" else "python3, perl, wakeonlan or etherwake"
    raise WakeError(
        f"The Wake-on-LAN packet for {mac} could not be sent.{said.rstrip(';') or ' There is no program for it.'}",
        f"Install one of these on the node of wake.via: {tools}; or name another node.",
    )


def _attempts(os: str, packet: str, mac: str, host: str, port: int) -> list[tuple[list[str], str]]:
    """Commands with what they read on standard input, the best first."""
    if os == "windows":
        return [(powershell(_POWERSHELL % {"packet": packet, "port": port, "rounds": ROUNDS}), "")]
    values = {"packet": packet, "host": host, "port": port, "rounds": ROUNDS, "pause": PAUSE}
    plain_mac = ":".join(packet[12:24][i : i + 2] for i in range(0, 12, 2))
    return [
        (["python3", "-"], _PYTHON % values),
        (["perl", "-"], _PERL % values),
        (["wakeonlan", "-p", str(port), plain_mac], ""),
        (["etherwake", plain_mac], ""),
    ]


_PYTHON: Final = """\
import socket, sys, time
packet, host, port, error = bytes.fromhex("%(packet)s"), "%(host)s", %(port)d, None
ways = [("0.0.0.0", "255.255.255.255")]
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((socket.gethostbyname(host), port))
        ours, there = s.getsockname()[0], s.getpeername()[0]
    ways += [(ours, "255.255.255.255"), (ours, there.rpartition(".")[0] + ".255")]
except OSError:
    pass
sent = 0
for turn in range(%(rounds)d):
    for source, target in ways:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                s.bind((source, 0))
                s.sendto(packet, (target, port))
                sent += 1
        except OSError as failed:
            error = failed
    time.sleep(%(pause)s)
sys.exit(0 if sent else str(error))
"""
"""Where the network of the node is a /24, as at home, that network's own broadcast address is tried, too."""

_PERL: Final = """\
use strict; use Socket;
my ($packet, $host, $port, $sent) = (pack("H*", "%(packet)s"), "%(host)s", %(port)d, 0);
my @targets = (INADDR_BROADCAST);
my $there = $host eq "" ? undef : inet_aton($host);
push @targets, substr($there, 0, 3) . chr(255) if defined $there;
socket(my $s, PF_INET, SOCK_DGRAM, getprotobyname("udp")) or die "$!\\n";
setsockopt($s, SOL_SOCKET, SO_BROADCAST, 1) or die "$!\\n";
for my $turn (1 .. %(rounds)d) {
    for my $target (@targets) { $sent++ if send($s, $packet, 0, sockaddr_in($port, $target)); }
    select(undef, undef, undef, %(pause)s);
}
$sent or die "$!\\n";
"""

_POWERSHELL: Final = (
    "$h='%(packet)s';$p=[byte[]]@(for($i=0;$i -lt $h.Length;$i+=2){[Convert]::ToByte($h.Substring($i,2),16)});"
    "$to=New-Object Net.IPEndPoint([Net.IPAddress]::Broadcast,%(port)d);$sent=0;$why='no network';"
    "$own=[Net.NetworkInformation.NetworkInterface]::GetAllNetworkInterfaces()|"
    "Where-Object{$_.OperationalStatus -eq 'Up'}|ForEach-Object{$_.GetIPProperties().UnicastAddresses}|"
    "Where-Object{$_.Address.AddressFamily -eq 'InterNetwork'}|ForEach-Object{$_.Address};"
    "foreach($turn in 1..%(rounds)d){foreach($a in $own){try{"
    "$u=New-Object Net.Sockets.UdpClient(New-Object Net.IPEndPoint($a,0));$u.EnableBroadcast=$true;"
    "[void]$u.Send($p,$p.Length,$to);$u.Close();$sent++}catch{$why=$_.Exception.Message}}};"
    "if(!$sent){[Console]::Error.WriteLine($why);exit 1}"
)
"""A socket for each interface: Windows sends a broadcast to everybody by the one of its choice."""
