"""What nvidia-smi, rocm-smi, amd-smi, ioreg, systemctl, launchctl and PowerShell print, mangled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import facts
from backends.gpus import amd, apple, nvidia
from backends.reach import services_words
from tests.fuzz.strategies import DEEP, bounded, grafts, json_of, said, text_of, tried

NVIDIA = """0, GPU-8f6d2c5e-1, NVIDIA GeForce RTX 3090, 24576, 23718, 71, 63, 312.40
1, GPU-8f6d2c5e-2, NVIDIA GeForce RTX 5090, 32607, [N/A], ERR!, 40, 20.00
"""
PROCESSES = "4711, 9200, GPU-8f6d2c5e-1\n4712, [N/A], GPU-8f6d2c5e-1\n"
CGROUPS = f"/proc/4711/cgroup:0::/system.slice/docker-{'ab' * 32}.scope\n/proc/4712/cgroup:0::/user.slice\n"
ROCM = {
    "card0": {
        "Device Name": "AMD Radeon PRO W7900", "Unique ID": "0x1234", "VRAM Total Memory (B)": "48301604864",
        "VRAM Total Used Memory (B)": "1048576", "GPU use (%)": "3", "Temperature (Sensor edge) (C)": "41.0",
        "Average Graphics Package Power (W)": "22.0",
    }
}  # fmt: skip
AMD = [
    {
        "gpu": 0, "usage": {"gfx_activity": {"value": 3, "unit": "%"}}, "power": {"socket_power": {"value": 22}},
        "temperature": {"edge": {"value": 41}}, "mem_usage": {"total_vram": {"value": 46080}, "used_vram": 10},
    }
]  # fmt: skip
NAMES = [{"gpu": 0, "asic": {"market_name": "AMD Radeon PRO W7900"}}]
IOREG = """+-o AGXAcceleratorG13X  <class AGXAcceleratorG13X, id 0x1000, IOAccelerator>
  "PerformanceStatistics" = {"In use system memory"=1073741824,"Device Utilization %"=17}
  "model" = "Apple M1 Max"
  "gpu-core-count" = 32
"""
SYSCTL = "hw.memsize: 68719476736\niogpu.wired_limit_mb: 49152\n"
SYSTEMD = """Id=ollama.service\nLoadState=loaded\nActiveState=active\nSubState=running\nResult=success
ExecMainStatus=0\nActiveEnterTimestamp=Sat 2026-11-21 09:03:16 UTC\nRestart=always
"""
LAUNCHD = "gui/501/com.ollama = {\n\tstate = running\n\tpid = 411\n\tlast exit code = 1\n\tstdout path = /tmp/o\n}\n"
WINDOWS = [{"Name": "Ollama", "Status": "Running", "StartType": "Automatic"}]
FACTS = """/proc/stat:btime 1795249964\n/proc/sys/kernel/osrelease:6.1.0-30-amd64
/proc/driver/nvidia/version:NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri\nvideo:32.0.15.6603
"""

SERVICES = ["ollama", "other"]
PARSERS: dict[str, tuple[Callable[[str], Any], st.SearchStrategy[str]]] = {
    "nvidia-smi": (nvidia.parse, text_of(NVIDIA)),
    "its processes": (nvidia.parse_processes, text_of(PROCESSES)),
    "cgroups": (nvidia.parse_cgroups, text_of(CGROUPS)),
    "rocm-smi": (amd.parse_rocm, json_of(ROCM).map(lambda raw: raw.decode("utf-8", "replace"))),
    "amd-smi": (amd.parse_amd_smi, json_of(AMD).map(lambda raw: raw.decode("utf-8", "replace"))),
    "amd-smi's names": (
        lambda names: amd.parse_amd_smi(json.dumps(AMD), names),
        json_of(NAMES).map(lambda raw: raw.decode("utf-8", "replace")),
    ),
    "ioreg": (lambda text: apple.parse(text, SYSCTL), text_of(IOREG)),
    "sysctl": (lambda text: apple.parse(IOREG, text), text_of(SYSCTL)),
    "systemctl": (lambda text: services_words.systemd(text, SERVICES, gpu=True), text_of(SYSTEMD)),
    "launchctl": (lambda text: services_words.launchd(text, "com.ollama", gpu=True), text_of(LAUNCHD)),
    "launchctl's log": (services_words.launchd_log, text_of(LAUNCHD)),
    "PowerShell": (
        lambda text: services_words.windows(text, SERVICES, gpu=True),
        json_of(WINDOWS).map(lambda raw: raw.decode("utf-8", "replace")),
    ),
    "facts": (facts.parsed, text_of(FACTS)),
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_program_may_print_anything(name: str) -> None:
    parse, printed = PARSERS[name]

    @tried
    @given(printed)
    def check(text: str) -> None:
        assert len(said(lambda: parse(text))) < 1000

    check()


@pytest.mark.parametrize(
    ("parse", "document"),
    [
        (amd.parse_rocm, ROCM),
        (amd.parse_amd_smi, AMD),
        (lambda names: amd.parse_amd_smi(json.dumps(AMD), names), NAMES),
        (lambda text: services_words.windows(text, SERVICES, gpu=True), WINDOWS),
    ],
    ids=["rocm-smi", "amd-smi", "its names", "PowerShell"],
)
def test_any_value_may_be_odd(parse: Callable[[str], Any], document: Any) -> None:
    for changed in grafts(document):
        said(lambda changed=changed: parse(json.dumps(changed)))


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(
    "text",
    [
        "x" * 2**20,
        "\n" * 2**20,
        "0, " * 2**18,
        "0, GPU-1, x, 1, 1, 1, 1, 1\n" * 2**15,
        '"PerformanceStatistics" = {' * 2**15,
        '"' * 2**20,
        "/proc/1/cgroup:" + "a" * 2**20,
        "NVRM version: " * 2**16,
        "[" * DEEP,
        "a=1\n" * 2**18,
    ],
    ids=["x", "lines", "fields", "GPUs", "statistics", "quotes", "cgroup", "NVRM", "deep", "pairs"],
)
def test_nor_does_it_take_for_ever(name: str, text: str) -> None:
    parse, _ = PARSERS[name]

    bounded(lambda: said(lambda: parse(text)))


def test_what_is_shown_of_a_gpu_is_printable() -> None:
    hostile = {"card0": {**ROCM["card0"], "Unique ID": "\x1b]0;owned\x07" + "x" * 500, "Device Name": "a\x1b[2Jb"}}
    (gpu,) = amd.parse_rocm(json.dumps(hostile))
    assert all(text.isprintable() and len(text) <= 80 for text in asdict(gpu).values() if isinstance(text, str))
