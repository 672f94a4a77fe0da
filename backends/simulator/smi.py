"""nvidia-smi, rocm-smi, sysctl and ioreg, as far as a console asks them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from backends.simulator.physics import Holding, SimGpu, SimHost

NA = "[N/A]"
Field = tuple[str, Callable[[SimHost, SimGpu], str]]

_GPU_FIELDS: dict[str, Field] = {
    "index": ("", lambda h, g: str(g.index)),
    "uuid": ("", lambda h, g: g.uuid),
    "gpu_uuid": ("", lambda h, g: g.uuid),
    "name": ("", lambda h, g: g.name),
    "gpu_name": ("", lambda h, g: g.name),
    "count": ("", lambda h, g: str(len(h.gpus))),
    "driver_version": ("", lambda h, g: h.driver),
    "pci.bus_id": ("", lambda h, g: f"00000000:{g.index + 1:02X}:00.0"),
    "pstate": ("", lambda h, g: "P2" if g.active else "P8"),
    "persistence_mode": ("", lambda h, g: "Enabled"),
    "compute_cap": ("", lambda h, g: "8.6"),
    "timestamp": ("", lambda h, g: f"{datetime.fromtimestamp(time.time(), UTC):%Y/%m/%d %H:%M:%S.000}"),
    "memory.total": ("MiB", lambda h, g: f"{g.memory_total_mib:.0f}"),
    "memory.used": ("MiB", lambda h, g: f"{g.used_mib:.0f}"),
    "memory.free": ("MiB", lambda h, g: f"{g.memory_total_mib - g.used_mib:.0f}"),
    "utilization.gpu": ("%", lambda h, g: str(g.utilization_pct)),
    "utilization.memory": ("%", lambda h, g: str(g.utilization_pct // 2)),
    "temperature.gpu": ("", lambda h, g: f"{g.celsius:.0f}"),
    "power.draw": ("W", lambda h, g: f"{g.watts:.2f}"),
    "power.limit": ("W", lambda h, g: f"{g.max_watts:.2f}"),
    "fan.speed": ("%", lambda h, g: "30"),
}

_APP_FIELDS: dict[str, tuple[str, Callable[[SimHost, SimGpu, Holding], str]]] = {
    "pid": ("", lambda h, g, p: str(p.pid)),
    "process_name": ("", lambda h, g, p: p.name),
    "name": ("", lambda h, g, p: p.name),
    "gpu_uuid": ("", lambda h, g, p: g.uuid),
    "gpu_name": ("", lambda h, g, p: g.name),
    "gpu_bus_id": ("", lambda h, g, p: f"00000000:{g.index + 1:02X}:00.0"),
    "used_memory": ("MiB", lambda h, g, p: NA if h.os == "windows" else f"{p.mib:.0f}"),
    "used_gpu_memory": ("MiB", lambda h, g, p: NA if h.os == "windows" else f"{p.mib:.0f}"),
}


def nvidia_trouble(host: SimHost) -> tuple[int, str] | None:
    """What nvidia-smi says instead of figures, with its exit code."""
    if host.nvml_error:
        return 18, host.nvml_error + "\n"
    for gpu in host.gpus:
        if gpu.lost:
            bus = f"0000:{gpu.index + 1:02X}:00.0"
            return 15, (
                f"Unable to determine the device handle for GPU {bus}: GPU is lost.  "
                "Reboot the system to recover this GPU\n"
            )
    if not host.gpus:
        return 6, "No devices were found\n"
    return None


def nvidia_list(host: SimHost) -> str:
    """nvidia-smi -L."""
    return "".join(f"GPU {g.index}: {g.name} (UUID: {g.uuid})\n" for g in host.gpus)


def unknown_field(fields: Sequence[str], *, apps: bool) -> str:
    """The first field that cannot be asked, "" where all can."""
    known = _APP_FIELDS if apps else _GPU_FIELDS
    return next((field for field in fields if field not in known), "")


def header(fields: Sequence[str], *, apps: bool, units: bool) -> str:
    """The first line of CSV."""
    known: dict[str, str] = {k: v[0] for k, v in (_APP_FIELDS if apps else _GPU_FIELDS).items()}
    return ", ".join(f"{f} [{known[f]}]" if known[f] and units else f for f in fields) + "\n"


def query_gpus(host: SimHost, fields: Sequence[str], *, units: bool) -> str:
    """One line of CSV for each GPU."""
    lines = []
    for gpu in host.gpus:
        cells = []
        for field in fields:
            unit, read = _GPU_FIELDS[field]
            value = NA if field in gpu.unreadable else read(host, gpu)
            cells.append(f"{value} {unit}" if unit and units and value != NA else value)
        lines.append(", ".join(cells) + "\n")
    return "".join(lines)


def query_apps(host: SimHost, fields: Sequence[str], *, units: bool) -> str:
    """One line of CSV for each process on a GPU."""
    lines = []
    for gpu in host.gpus:
        for holding in gpu.processes():
            cells = []
            for field in fields:
                unit, read = _APP_FIELDS[field]
                value = read(host, gpu, holding)
                cells.append(f"{value} {unit}" if unit and units and value != NA else value)
            lines.append(", ".join(cells) + "\n")
    return "".join(lines)


def rocm(host: SimHost) -> str:
    """rocm-smi --showmeminfo vram --showuse --json."""
    cards = {
        f"card{g.index}": {
            "GPU use (%)": str(g.utilization_pct),
            "VRAM Total Memory (B)": str(int(g.memory_total_mib * 2**20)),
            "VRAM Total Used Memory (B)": str(int(g.used_mib * 2**20)),
            "Temperature (Sensor edge) (C)": f"{g.celsius:.1f}",
            "Average Graphics Package Power (W)": f"{g.watts:.1f}",
            "Card Series": g.name,
            "Card series": g.name,
            "Unique ID": "0x" + g.uuid.replace("-", "")[3:19],
        }
        for g in host.gpus
    }
    return json.dumps(cards) + "\n"


def sysctl(host: SimHost, name: str) -> str | None:
    """One value of macOS's sysctl."""
    limit = int(host.gpus[0].memory_total_mib) if host.gpus else 0
    values = {
        "hw.memsize": str(int(host.memory_mib * 2**20)),
        "iogpu.wired_limit_mb": str(limit),
        "machdep.cpu.brand_string": host.gpus[0].name if host.gpus else "Apple M4",
        "hw.ncpu": "12",
        "kern.boottime": f"{{ sec = {int(host.booted_at)}, usec = 0 }}",
        "kern.osrelease": "25.1.0",
    }
    return values.get(name)


def ioreg(host: SimHost) -> str:
    """ioreg -r -d 1 -w 0 -c IOAccelerator, the line that counts."""
    if not host.gpus:
        return ""
    gpu = host.gpus[0]
    used = int(gpu.used_mib * 2**20)
    statistics = (
        f'"PerformanceStatistics" = {{"In use system memory"={used},"Alloc system memory"={used * 2},'
        f'"Device Utilization %"={gpu.utilization_pct},"Renderer Utilization %"={gpu.utilization_pct},'
        f'"In use system memory (driver)"=0}}'
    )
    return (
        "+-o AGXAcceleratorG16X  <class AGXAcceleratorG16X, id 0x100000a3d, registered, matched, active, busy 0>\n"
        f'    {{\n      "IOClass" = "AGXAcceleratorG16X"\n      {statistics}\n      "model" = "{gpu.name}"\n    }}\n'
    )
