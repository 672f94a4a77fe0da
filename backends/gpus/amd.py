"""AMD GPUs by rocm-smi, or by amd-smi where that is all there is: the queries and lenient parsers. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from backends.cluster.reading import Gpu
from backends.errors import CommandError
from backends.gpus.numbers import celsius, mebibytes, number, percent, watts
from backends.reach.streams import first_words

QUERY: Final = (
    "rocm-smi",
    "--showmeminfo",
    "vram",
    "--showuse",
    "--showtemp",
    "--showpower",
    "--showproductname",
    "--showuniqueid",
    "--json",
)
METRICS: Final = ("amd-smi", "metric", "--mem-usage", "--usage", "--temperature", "--power", "--json")
NAMES: Final = ("amd-smi", "static", "--asic", "--json")

_MOST: Final = 64
_MISSING: Final = CommandError(
    "Neither rocm-smi nor amd-smi is installed there, or on the PATH.",
    'Install rocm-smi, or correct `gpus` of that node ("none").',
    status=127,
)


def missing() -> CommandError:
    """What to say where neither tool is there."""
    return CommandError(_MISSING.message, _MISSING.advice, status=_MISSING.status)


def failure(tool: str, status: int | None, stdout: str, stderr: str) -> CommandError:
    """Why a tool failed."""
    text = f"{stdout}\n{stderr}".lower()
    if "driver not initialized" in text or "amdgpu not found" in text or "not initialized" in text:
        return CommandError(f"{tool}: the amdgpu driver is not loaded.", "modprobe amdgpu; see dmesg.", status=status)
    if "permission denied" in text:
        return CommandError(
            f"{tool}: the user may not use the GPU.", "Add the user to the groups render and video.", status=status
        )
    said = first_words(stderr) or first_words(stdout) or "no words"
    return CommandError(f"{tool} failed with status {status}: {said}.", status=status)


def parse_rocm(text: str) -> tuple[Gpu, ...]:
    """The GPUs of rocm-smi's JSON, whose keys are words that differ between versions."""
    cards = [
        (int(match[1]), card)
        for key, card in _object(text, "rocm-smi").items()
        if (match := re.fullmatch(r"card(\d{1,3})", key)) and isinstance(card, dict)
    ]
    if not cards:
        raise CommandError("rocm-smi lists no GPU.", "Is the amdgpu driver loaded (modprobe amdgpu; dmesg)?")
    return tuple(_rocm_card(index, card) for index, card in sorted(cards, key=lambda pair: pair[0])[:_MOST])


def _rocm_card(index: int, card: dict[str, Any]) -> Gpu:
    heat = _first(card, r"temperature \(sensor edge\)") or _first(card, r"temperature \(sensor")
    return Gpu(
        index=index,
        name=first_words(_first(card, r"card series|device name|card model|card sku") or "AMD GPU", 80),
        uuid=first_words(_first(card, r"unique id") or "", 80) or None,
        memory_total_mib=_bytes(_first(card, r"vram total memory")) or None,
        memory_used_mib=_bytes(_first(card, r"vram total used memory")),
        utilization_pct=percent(_first(card, r"gpu use")),
        temperature_c=celsius(heat),
        power_w=watts(_first(card, r".*package power|.*graphics power|average.*power|current.*power")),
    )


def parse_amd_smi(metrics: str, names: str = "") -> tuple[Gpu, ...]:
    """The GPUs of `amd-smi metric --json`, with names from `amd-smi static --asic --json` where they were had."""
    named = {
        int(item["gpu"]): str(_at(item, "asic", "market_name") or "")
        for item in (_items(names) if names else [])
        if isinstance(item.get("gpu"), int)
    }
    gpus = [
        Gpu(
            index=int(item["gpu"]),
            name=first_words(named.get(int(item["gpu"])) or "AMD GPU", 80),
            memory_total_mib=mebibytes(_value(_at(item, "mem_usage", "total_vram"))) or None,
            memory_used_mib=mebibytes(_value(_at(item, "mem_usage", "used_vram"))),
            utilization_pct=percent(_value(_at(item, "usage", "gfx_activity"))),
            temperature_c=celsius(_value(_at(item, "temperature", "edge")))
            or celsius(_value(_at(item, "temperature", "hotspot"))),
            power_w=watts(_value(_at(item, "power", "socket_power"))),
        )
        for item in _items(metrics)
        if isinstance(item.get("gpu"), int)
    ]
    if not gpus:
        raise CommandError("amd-smi lists no GPU.", "Is the amdgpu driver loaded (modprobe amdgpu; dmesg)?")
    return tuple(gpus[:_MOST])


def _object(text: str, tool: str) -> dict[str, Any]:
    """The JSON object in a tool's output, behind whatever warnings it put before."""
    start = text.find("{")
    try:
        data = json.JSONDecoder().raw_decode(text[start:])[0] if start >= 0 else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise CommandError(f"{tool} answered what is no JSON: {first_words(text) or 'nothing'}")
    return data


def _items(text: str) -> list[dict[str, Any]]:
    """amd-smi's list of GPUs, bare in older versions, under "gpu_data" in newer ones."""
    start = min((at for at in (text.find("["), text.find("{")) if at >= 0), default=-1)
    try:
        data = json.JSONDecoder().raw_decode(text[start:])[0] if start >= 0 else None
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        data = data.get("gpu_data")
    if not isinstance(data, list):
        raise CommandError(f"amd-smi answered what is no list of GPUs: {first_words(text) or 'nothing'}")
    return [item for item in data if isinstance(item, dict)]


def _first(card: dict[str, Any], pattern: str) -> str | None:
    """The first value with words in it whose key begins as `pattern` says."""
    for key, value in card.items():
        if re.match(pattern, key.lower()) and str(value).strip().lower() not in ("", "n/a", "none"):
            return str(value).strip()
    return None


def _bytes(value: object) -> float | None:
    count = number(value, 0, 2**44)
    return None if count is None else count / 2**20


def _value(value: object) -> object:
    return value.get("value") if isinstance(value, dict) else value


def _at(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
