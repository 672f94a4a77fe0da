"""A slow line that loses packets: two tunnels, one here and one in a node's namespace, and a delay between them.

Usage: line.py NETNS OURS THEIRS SECONDS LOSS. While it runs, packets between the two addresses go this way, each
SECONDS late, and LOSS of them (0 to 1) never arrive; when it ends they take the node's cable again.
"""

import ctypes
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from fcntl import ioctl
from pathlib import Path

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
LONGEST = 65536


def tunnel(name: str, ours: str, theirs: str) -> int:
    """An end of the line in the namespace one is in, and the way to `theirs` through it."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up"], check=True, timeout=10)
    subprocess.run(["ip", "route", "add", f"{theirs}/32", "dev", name, "src", ours], check=True, timeout=10)
    return end


def enter(netns: str) -> None:
    """Go into a network namespace."""
    with Path("/run/netns", netns).open() as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"no way into {netns}")


def main() -> None:
    """Carries packets until it is ended."""
    netns, ours, theirs, delay, loss = sys.argv[1:]
    here = tunnel(f"{netns}s", ours, theirs)
    enter(netns)
    there = tunnel("slow0", theirs, ours)
    print("open", flush=True)
    other = {here: there, there: here}
    late: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        for end in select.select([here, there], [], [], wait)[0]:
            packet = os.read(end, LONGEST)
            if random.random() >= float(loss):
                late.append((time.monotonic() + float(delay), other[end], packet))
        while late and late[0][0] <= time.monotonic():
            _, end, packet = late.popleft()
            os.write(end, packet)


if __name__ == "__main__":
    main()
