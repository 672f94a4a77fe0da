"""The network card of a node that sleeps: at its magic packet it gives the node its address back.

Usage: card.py DEVICE MAC ADDRESS/PREFIX, in the node's network namespace.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

EVERY_PROTOCOL = 3
UP = 1


def main() -> None:
    """Listens to every frame, asleep or not."""
    device, mac, address = sys.argv[1:]
    magic = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL)) as card:
        while not _is_up(device):  # who listens to a device before that is told that it is down
            time.sleep(0.02)
        card.bind((device, 0))
        print("listens", flush=True)
        while True:
            if magic in card.recv(65536):
                subprocess.run(["ip", "address", "replace", address, "dev", device], check=True, timeout=10)
                print("woken", flush=True)


def _is_up(device: str) -> bool:
    flags = Path("/sys/class/net", device, "flags")
    return flags.exists() and bool(int(flags.read_text(), 16) & UP)


if __name__ == "__main__":
    main()
