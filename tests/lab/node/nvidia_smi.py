"""Plays nvidia-smi on a machine without a GPU: what the containers of one engine keep in RAM lies on its GPU instead.

Usage: nvidia_smi.py CGROUP, then nvidia-smi's own words: --query-gpu=... [-l SECONDS] or --query-compute-apps=...
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

UUID = "GPU-1ab00000-0000-0000-0000-000000000000"
DESKTOP_MIB, DRIVER_MIB = 300, 250
"""What a desktop has of the card, and what its driver keeps for each process."""


def held(cgroup: str) -> Iterator[tuple[int, int]]:
    """Each process of those containers with the MiB that are its own."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text() if cgroup in (folder / "cgroup").read_text() else ""
        except OSError:
            continue
        if "RssAnon:" in status:
            yield int(folder.name), DRIVER_MIB + int(status.partition("RssAnon:")[2].split()[0]) // 1024


def main() -> None:
    """Answers once, or every some seconds."""
    cgroup, query, *more = sys.argv[1:]
    every = float(more[more.index("-l") + 1]) if "-l" in more else None
    while True:
        processes = list(held(cgroup))
        if query.startswith("--query-compute-apps"):
            for pid, mib in processes:
                print(f"{pid}, {mib}, {UUID}")
        else:
            used = DESKTOP_MIB + sum(mib for _, mib in processes)
            print(f"0, {UUID}, NVIDIA GeForce RTX 3090, 24576, {used}, 0, 40, 30.00", flush=True)
        if every is None:
            return
        time.sleep(every)


if __name__ == "__main__":
    main()
