"""NVIDIA GPUs as a DCGM exporter of their node tells of them: its Prometheus text as GPU readings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from backends.cluster.reading import Gpu, GpuProcess
from backends.gpus.numbers import celsius, mebibytes, percent, watts
from backends.prometheus import labelled, samples
from backends.reach.streams import first_words

USED: Final = "DCGM_FI_DEV_FB_USED"
FREE: Final = "DCGM_FI_DEV_FB_FREE"
RESERVED: Final = "DCGM_FI_DEV_FB_RESERVED"
BUSY: Final = "DCGM_FI_DEV_GPU_UTIL"
HEAT: Final = "DCGM_FI_DEV_GPU_TEMP"
POWER: Final = "DCGM_FI_DEV_POWER_USAGE"
"""The exporter's default metrics that are read; memory is in MiB."""

MOST_GPUS: Final = 64

NO_PID: Final = 0
"""Stands for the processes of a pod, of which the exporter tells no numbers."""

Figures = dict[str, dict[str, float]]
"""By metric the figure of each part of a GPU; "" is the whole, others are MIG instances."""


def parse(text: str, containers: Mapping[str, str]) -> tuple[Gpu, ...]:
    """All GPUs of one answer; `containers` are the ids of the containers of pods (NAMESPACE/NAME) that are known."""
    figures: dict[int, Figures] = {}
    labels_of: dict[int, dict[str, str]] = {}
    pods: dict[int, set[str]] = {}
    for name, labels, value in samples(text, (USED, FREE, RESERVED, BUSY, HEAT, POWER)):
        told = labelled(labels)
        number = told.get("gpu", "")
        if not number.isdecimal() or int(number) >= MOST_GPUS:
            continue
        index = int(number)
        figures.setdefault(index, {}).setdefault(name, {})[told.get("GPU_I_ID", "")] = value
        labels_of.setdefault(index, told)
        if told.get("pod"):
            pods.setdefault(index, set()).add(f"{told.get('namespace', '')}/{told['pod']}")
    return tuple(
        _gpu(index, labels_of[index], figures[index], [containers.get(pod) for pod in sorted(pods.get(index, ()))])
        for index in sorted(figures)
    )


def _gpu(index: int, labels: Mapping[str, str], figures: Figures, holders: Iterable[str | None]) -> Gpu:
    used, free = _sum(figures, USED), _sum(figures, FREE)
    total = None if used is None or free is None else used + free + (_sum(figures, RESERVED) or 0.0)
    return Gpu(
        index=index,
        name=first_words(labels.get("modelName", "") or "NVIDIA GPU", 80),
        uuid=first_words(labels.get("UUID", ""), 80) or None,
        memory_total_mib=mebibytes(total) or None,
        memory_used_mib=mebibytes(used),
        utilization_pct=percent(_whole(figures, BUSY)),
        temperature_c=celsius(_whole(figures, HEAT)),
        power_w=watts(_whole(figures, POWER)),
        processes=_processes(used, list(holders)),
    )


def _processes(used: float | None, holders: list[str | None]) -> tuple[GpuProcess, ...] | None:
    """What runs on a GPU: the containers of the pods that have it; None where not all are known.

    All that is in use is held by a pod that has the GPU alone; of several nobody tells the shares.
    """
    if not holders or not all(holders):
        return None
    alone = used if len(holders) == 1 else None
    return tuple(GpuProcess(NO_PID, alone, holder) for holder in holders)


def _sum(figures: Figures, name: str) -> float | None:
    """The figure of the whole GPU, else the sum over its instances."""
    parts = figures.get(name, {})
    return parts.get("", sum(parts.values()) if parts else None)


def _whole(figures: Figures, name: str) -> float | None:
    """The figure of the whole GPU, or the highest of its instances, which share its silicon."""
    parts = figures.get(name, {})
    return parts.get("", max(parts.values(), default=None))
