"""NVIDIA GPUs by nvidia-smi: the queries, and parsers for all that it has been seen to answer. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from backends.cluster.reading import Gpu, GpuProcess
from backends.errors import CommandError
from backends.gpus.numbers import celsius, mebibytes, percent, watts
from backends.reach.streams import first_words

FIELDS: Final = "index,uuid,name,memory.total,memory.used,utilization.gpu,temperature.gpu,power.draw"
QUERY: Final = ("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
PROCESSES: Final = ("nvidia-smi", "--query-compute-apps=pid,used_memory,gpu_uuid", "--format=csv,noheader,nounits")

MOST_GPUS: Final = 64
MOST_PROCESSES: Final = 512
CGROUPS: Final = 16
"""Lines that a process's cgroup file has at most: one a controller, where the kernel is old."""

_FAULTS: Final = (
    (
        "version mismatch",
        "The NVIDIA driver was updated under the running one",
        "Reboot the host, or unload and load the driver's modules (rmmod nvidia_uvm nvidia; modprobe nvidia).",
    ),
    ("no devices were found", "The NVIDIA driver sees no GPU", "Is it seated and powered? dmesg | grep -i nvrm tells."),
    (
        "gpu is lost",
        "A GPU fell off the bus",
        "Reboot the host; nothing less brings it back. Power and heat are usual causes.",
    ),
    (
        "fallen off the bus",
        "A GPU fell off the bus",
        "Reboot the host; nothing less brings it back. Power and heat are usual causes.",
    ),
    (
        "unable to determine the device handle",
        "The NVIDIA driver has lost a GPU",
        "Reboot the host; look for Xid in dmesg.",
    ),
    (
        "requires reset",
        "A GPU wants to be reset",
        "Stop what uses it, then nvidia-smi --gpu-reset, or reboot the host.",
    ),
    (
        "couldn't communicate with the nvidia driver",
        "The NVIDIA driver is not loaded",
        "modprobe nvidia; after a kernel update the driver must be built anew (dkms status).",
    ),
    ("driver not loaded", "The NVIDIA driver is not loaded", "modprobe nvidia; after a kernel update see dkms status."),
    (
        "failed to initialize nvml",
        "The NVIDIA driver does not answer",
        "Reboot the host, or reload the driver; in a container, recreate the container.",
    ),
    (
        "insufficient permissions",
        "The user may not ask the NVIDIA driver",
        "Add the user to the group of /dev/nvidiactl.",
    ),
)
_MISSING: Final = (
    "command not found",
    "not recognized",
    "no such file",
    "is not installed",
    ": not found",
    "cannot find",
)


def parse(text: str) -> tuple[Gpu, ...]:
    """All GPUs of one answer; CommandError where it tells of a fault, or is no answer of nvidia-smi's."""
    gpus = []
    for line in text.splitlines()[: 2 * MOST_GPUS]:
        gpu = parse_line(line)
        if gpu:
            gpus.append(gpu)
        elif line.strip():
            fault = known_fault(line)
            if fault:
                raise fault
    if not gpus:
        raise CommandError(f"nvidia-smi answered what is no list of GPUs: {first_words(text) or 'nothing'}")
    return tuple(gpus[:MOST_GPUS])


def parse_line(line: str) -> Gpu | None:
    """The GPU of one line, or None; a name may hold commas, so figures are counted from the right."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) < 8 or not parts[0].isdecimal() or len(parts[0]) > 4:
        return None
    total, used, share, heat, power = parts[-5:]
    return Gpu(
        index=int(parts[0]),
        name=first_words(", ".join(parts[2:-5]), 80),
        uuid=parts[1] if re.fullmatch(r"[\w-]{4,80}", parts[1]) else None,
        memory_total_mib=mebibytes(total) or None,
        memory_used_mib=mebibytes(used),
        utilization_pct=percent(share),
        temperature_c=celsius(heat),
        power_w=watts(power),
    )


def known_fault(text: str) -> CommandError | None:
    """The fault that nvidia-smi tells of, with advice; None where it is none we know."""
    lower = text.lower()
    for part, what, todo in _FAULTS:
        if part in lower:
            return CommandError(f"{what} (nvidia-smi: {first_words(text)}).", todo)
    return None


def failure(status: int | None, stdout: str, stderr: str) -> CommandError:
    """Why nvidia-smi failed; it tells its faults on standard output more often than not."""
    said = first_words(stdout) or first_words(stderr)
    fault = known_fault(f"{stdout}\n{stderr}")
    if fault:
        return CommandError(fault.message, fault.advice, status=status)
    if status == 127 or any(part in stderr.lower() for part in _MISSING):
        return CommandError(
            "nvidia-smi is not installed there, or not on the PATH.",
            'Install the NVIDIA driver\'s utilities, or correct `gpus` of that node ("none").',
            status=status,
        )
    return CommandError(f"nvidia-smi failed with status {status}: {said or 'no words'}.", status=status)


def parse_processes(text: str) -> dict[str, tuple[tuple[int, float | None], ...]]:
    """For each GPU's uuid the processes on it: pid and MiB, None where the driver does not say (Windows, WSL)."""
    found: dict[str, list[tuple[int, float | None]]] = {}
    for line in text.splitlines()[:MOST_PROCESSES]:
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[0].isdecimal() and len(parts[0]) < 11:
            found.setdefault(parts[2], []).append((int(parts[0]), mebibytes(parts[1])))
    return {uuid: tuple(processes) for uuid, processes in found.items()}


def cgroup_query(pids: Sequence[int]) -> list[str]:
    """The command that prints the cgroups of those processes, each line led by its file's name."""
    return ["grep", "-sH", "", *(f"/proc/{pid}/cgroup" for pid in pids)]


def parse_cgroups(text: str) -> dict[int, str]:
    """The container id of each process that runs in one, "" for one that runs in none."""
    found: dict[int, str] = {}
    for line in text.splitlines()[: MOST_PROCESSES * CGROUPS]:
        match = re.match(r"/proc/(\d{1,10})/cgroup:(?:.*?(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f]))?", line)
        if match:
            found[int(match[1])] = match[2] or found.get(int(match[1]), "")
    return found


def with_processes(
    gpus: Sequence[Gpu],
    processes: Mapping[str, Sequence[tuple[int, float | None]]],
    containers: Mapping[int, str],
) -> tuple[Gpu, ...]:
    """The GPUs with what runs on them."""
    return tuple(
        replace(
            gpu,
            processes=tuple(
                GpuProcess(pid, used, containers.get(pid)) for pid, used in processes.get(gpu.uuid or "", ())
            ),
        )
        for gpu in gpus
    )


class Rounds:
    """Puts the lines of `nvidia-smi -l` together to rounds over all GPUs, with nothing between rounds to go by.

    A round is complete with the `expected` number of GPUs, or when an index comes again.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._round: dict[int, Gpu] = {}
        self._told = False

    def feed(self, gpu: Gpu) -> list[tuple[Gpu, ...]]:
        """Take one more GPU; the rounds that it completes."""
        complete = []
        if gpu.index in self._round:
            if not self._told:
                complete.append(tuple(self._round.values()))
            self._expected = len(self._round)
            self._round = {}
            self._told = False
        if len(self._round) < MOST_GPUS:
            self._round[gpu.index] = gpu
        if len(self._round) >= self._expected:
            complete.append(tuple(self._round.values()))
            self._told = True
        return complete
