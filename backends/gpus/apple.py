"""Apple GPUs by sysctl and ioreg: memory is shared with the system, and its GPU share is read, never assumed. Pure."""

from __future__ import annotations

import re
from typing import Final

from backends.cluster.reading import Gpu
from backends.errors import CommandError
from backends.gpus.numbers import mebibytes, number, percent
from backends.reach.streams import first_words

LIMITS: Final = ("sysctl", "hw.memsize", "iogpu.wired_limit_mb")
QUERY: Final = ("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")


def parse(ioreg: str, sysctl: str) -> tuple[Gpu, ...]:
    """The GPU; its total is the limit a person has set, None where macOS keeps its own (0), which it does not tell."""
    if "IOAccelerator" not in ioreg and "PerformanceStatistics" not in ioreg:
        raise CommandError(
            f"ioreg tells of no GPU: {first_words(ioreg) or 'nothing'}",
            "Is that node a Mac? See `gpus` in cluster.toml.",
        )
    statistics = ioreg.partition('"PerformanceStatistics" = {')[2].partition("}")[0]
    figures = dict(re.findall(r'"([^"]+)"=(\d{1,20})', statistics))
    model = re.search(r'"model" = <?"([^"]{1,80})"', ioreg)
    cores = re.search(r'"gpu-core-count" = (\d{1,4})', ioreg)
    name = first_words(model[1] if model else "Apple GPU", 80)
    used = number(figures.get("In use system memory"), 0, 2**44)
    limit = re.search(r"iogpu\.wired_limit_mb[:=]\s*(\d{1,9})", sysctl)
    return (
        Gpu(
            index=0,
            name=f"{name} ({cores[1]} cores)" if cores else name,
            memory_total_mib=(mebibytes(limit[1]) if limit else None) or None,
            memory_used_mib=None if used is None else used / 2**20,
            utilization_pct=percent(figures.get("Device Utilization %")),
        ),
    )
