from __future__ import annotations

import json
from typing import Any

import pytest

from backends.errors import CommandError
from backends.gpus import amd, apple

CARD = {
    "GPU use (%)": "12",
    "VRAM Total Memory (B)": "17163091968",
    "VRAM Total Used Memory (B)": "1073741824",
    "Temperature (Sensor edge) (C)": "45.0",
    "Temperature (Sensor junction) (C)": "50.0",
    "Average Graphics Package Power (W)": "25.0",
    "Card Series": "Radeon RX 7800 XT",
    "Unique ID": "0x1234",
}


def test_rocm() -> None:
    text = "WARNING: AMD GPU device(s) is/are in a low-power state.\n\n" + json.dumps(
        {"card1": CARD | {"Card Series": "N/A", "Device Name": "Navi 32"}, "card0": CARD, "system": {"Driver": "6.8"}}
    )
    first, second = amd.parse_rocm(text)
    assert (first.index, first.name, first.uuid) == (0, "Radeon RX 7800 XT", "0x1234")
    assert (first.memory_total_mib, first.memory_used_mib) == (16368, 1024)
    assert (first.utilization_pct, first.temperature_c, first.power_w) == (12, 45, 25)
    assert (second.index, second.name) == (1, "Navi 32")


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"GPU use (%)": "N/A"}, "utilization_pct", None),
        ({"GPU use (%)": 7}, "utilization_pct", 7),
        ({"VRAM Total Memory (B)": "0"}, "memory_total_mib", None),
        ({"VRAM Total Memory (B)": "lots"}, "memory_total_mib", None),
        ({"Temperature (Sensor edge) (C)": "N/A"}, "temperature_c", 50),
        (
            {"Average Graphics Package Power (W)": "N/A", "Current Socket Graphics Package Power (W)": "31"},
            "power_w",
            31,
        ),
    ],
)
def test_rocm_figures(change: dict[str, Any], field: str, value: float | None) -> None:
    (gpu,) = amd.parse_rocm(json.dumps({"card0": CARD | change}))
    assert getattr(gpu, field) == value


@pytest.mark.parametrize("text", ["", "[]", "{", "ERROR: no", '{"card0": 5}', "{}", "[" * 5000, '{"a":' * 5000])
def test_rocm_garbage(text: str) -> None:
    with pytest.raises(CommandError, match=r"rocm-smi (answered what is no JSON|lists no GPU)"):
        amd.parse_rocm(text)


ITEM = {
    "gpu": 0,
    "usage": {"gfx_activity": {"value": 3, "unit": "%"}},
    "power": {"socket_power": {"value": 31, "unit": "W"}},
    "temperature": {"edge": {"value": 41, "unit": "C"}, "hotspot": {"value": 44, "unit": "C"}},
    "mem_usage": {"total_vram": {"value": 16368, "unit": "MB"}, "used_vram": {"value": 100, "unit": "MB"}},
}


def test_amd_smi_old_and_new() -> None:
    names = json.dumps([{"gpu": 0, "asic": {"market_name": "AMD Radeon RX 7800 XT"}}])
    for metrics in (json.dumps([ITEM]), json.dumps({"gpu_data": [ITEM]}), "note\n" + json.dumps([ITEM])):
        (gpu,) = amd.parse_amd_smi(metrics, names)
        assert (gpu.name, gpu.memory_total_mib, gpu.memory_used_mib) == ("AMD Radeon RX 7800 XT", 16368, 100)
        assert (gpu.utilization_pct, gpu.temperature_c, gpu.power_w) == (3, 41, 31)
    assert amd.parse_amd_smi(json.dumps([ITEM]))[0].name == "AMD GPU"


def test_amd_smi_without_figures() -> None:
    odd = {"gpu": 0, "usage": "N/A", "power": {"socket_power": "N/A"}, "temperature": {"edge": "N/A", "hotspot": 44}}
    (gpu,) = amd.parse_amd_smi(json.dumps([odd]))
    assert (gpu.utilization_pct, gpu.power_w, gpu.temperature_c, gpu.memory_total_mib) == (None, None, 44, None)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1,2]", "null", "AMDSMI_STATUS_NOT_INIT"])
def test_amd_smi_garbage(text: str) -> None:
    with pytest.raises(CommandError, match="amd-smi"):
        amd.parse_amd_smi(text)


def test_amd_failures() -> None:
    assert "driver is not loaded" in amd.failure("rocm-smi", 2, "ERROR:root:Driver not initialized", "").message
    assert "render and video" in amd.failure("rocm-smi", 1, "", "Permission denied").advice
    assert "status 3: odd" in amd.failure("amd-smi", 3, "", "odd").message


IOREG = """\
+-o AGXAcceleratorG14X  <class AGXAcceleratorG14X, id 0x100000a3d, registered, matched, active, busy 0>
    {
      "IOClass" = "AGXAcceleratorG14X"
      "PerformanceStatistics" = {"In use system memory (driver)"=0,"Alloc system memory"=9,\
"Device Utilization %"=17,"In use system memory"=2147483648}
      "model" = "Apple M2 Max"
      "gpu-core-count" = 30
    }
"""


@pytest.mark.parametrize(
    ("sysctl", "total"),
    [
        ("hw.memsize: 34359738368\niogpu.wired_limit_mb: 24576\n", 24576),
        ("hw.memsize: 34359738368\niogpu.wired_limit_mb: 0\n", None),
        ("hw.memsize: 34359738368\n", None),
        ("hw.memsize: 34359738368\nsysctl: unknown oid 'iogpu.wired_limit_mb'\n", None),
        ("", None),
    ],
)
def test_apple(sysctl: str, total: float | None) -> None:
    (gpu,) = apple.parse(IOREG, sysctl)
    assert (gpu.name, gpu.memory_used_mib, gpu.utilization_pct) == ("Apple M2 Max (30 cores)", 2048, 17)
    assert gpu.memory_total_mib == total


def test_apple_without_figures() -> None:
    (gpu,) = apple.parse("+-o IOAccelerator\n", "")
    assert (gpu.name, gpu.memory_used_mib, gpu.utilization_pct, gpu.memory_total_mib) == ("Apple GPU", None, None, None)
    with pytest.raises(CommandError, match="ioreg tells of no GPU: nothing"):
        apple.parse("", "")
