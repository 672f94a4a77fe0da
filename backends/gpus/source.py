"""The GPUs of a node, read once or streamed, whoever made them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from backends.cluster.reading import Gpu
from backends.cluster.tables import Node
from backends.errors import CommandError, ReachError
from backends.gpus import amd, apple, nvidia
from backends.reach.runtime import Completed, Shell

LIMIT: Final = 10.0
"""Seconds for one answer; nvidia-smi without persistence mode takes several."""

PROCESSES_EVERY: Final = 15.0
"""Seconds between two questions for the processes, which change seldom and cost a process each; ..."""

MOVED_MIB: Final = 64.0
"""... but once the memory in use has moved by more they are asked at once: somebody starts, or stops."""

_SILENT: Final = 5.0
"""Intervals without a line after which a stream counts as hung."""


async def read_once(node: Node, shell: Shell, timeout: float = LIMIT) -> tuple[Gpu, ...]:
    """The GPUs of a node with what runs on them; ReachError with advice where they cannot be read."""
    try:
        async with asyncio.timeout(timeout):
            gpus = await _READERS[node.gpus](shell, timeout)
    except TimeoutError:
        raise _hung(node, timeout) from None
    return _completed(node, gpus)


async def stream(node: Node, shell: Shell, interval: float) -> AsyncGenerator[tuple[Gpu, ...], None]:
    """The GPUs every `interval` seconds, until closed; ReachError where they cannot be read any more.

    nvidia-smi runs once and repeats itself; the other tools cannot and are asked again and again.
    """
    gpus = await read_once(node, shell)
    yield gpus
    if node.gpus == "nvidia":
        async with aclosing(_nvidia_stream(node, shell, interval, gpus)) as rounds:
            async for gpus in rounds:
                yield _completed(node, gpus)
    elif node.gpus != "none":
        while True:
            await asyncio.sleep(interval)
            yield await read_once(node, shell)


async def _nvidia_stream(
    node: Node, shell: Shell, interval: float, first: Sequence[Gpu]
) -> AsyncGenerator[tuple[Gpu, ...], None]:
    rounds, running = nvidia.Rounds(len(first)), _Running(shell, first)
    seconds = max(1, round(interval))
    try:
        async with shell.lines([*nvidia.QUERY, "-l", str(seconds)]) as lines:
            while (line := await _next(lines, _SILENT * seconds + LIMIT)) is not None:
                gpu = nvidia.parse_line(line)
                if gpu is None and (fault := nvidia.known_fault(line)):
                    raise fault
                for gpus in rounds.feed(gpu) if gpu else ():
                    yield await running.on(gpus)
    except TimeoutError:
        raise _hung(node, _SILENT * seconds + LIMIT) from None
    except CommandError as error:
        raise nvidia.known_fault(error.message) or error from None
    raise CommandError(f"nvidia-smi on {node.name} ended by itself.", "Is the driver being reloaded?")


async def _next(lines: AsyncIterator[str], limit: float) -> str | None:
    async with asyncio.timeout(limit):
        return await anext(lines, None)


class _Running:
    """Knows what runs on a node's NVIDIA GPUs, and asks again only now and then, or when their memory moves."""

    def __init__(self, shell: Shell, gpus: Sequence[Gpu], clock: Callable[[], float] = time.monotonic) -> None:
        self._shell = shell
        self._clock = clock
        self._keep(gpus)

    async def on(self, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        if self._clock() < self._due and not any(self._moved(gpu) for gpu in gpus):
            known = {gpu.uuid: gpu.processes for gpu in self._known}
            return tuple(replace(gpu, processes=known.get(gpu.uuid)) for gpu in gpus)
        gpus = await _with_processes(self._shell, gpus)
        self._keep(gpus)
        return gpus

    def _keep(self, gpus: Sequence[Gpu]) -> None:
        self._known = tuple(gpus)
        self._due = self._clock() + PROCESSES_EVERY

    def _moved(self, now: Gpu) -> bool:
        then = next((gpu.memory_used_mib for gpu in self._known if gpu.uuid == now.uuid), None)
        return then is not None and abs((now.memory_used_mib or 0.0) - then) > MOVED_MIB


async def _read_nvidia(shell: Shell, timeout: float) -> tuple[Gpu, ...]:
    try:
        done = await shell.run(nvidia.QUERY, timeout=timeout)
    except CommandError as error:
        raise nvidia.failure(error.status, "", error.message) from error
    if done.status:
        raise nvidia.failure(done.status, done.stdout, done.stderr)
    return await _with_processes(shell, nvidia.parse(done.stdout))


async def _with_processes(shell: Shell, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The GPUs with their processes; without, where those cannot be had: the figures stand for themselves."""
    try:
        done = await shell.run(nvidia.PROCESSES, timeout=LIMIT)
        if done.status:
            return gpus
        processes = nvidia.parse_processes(done.stdout)
        if done.stdout.strip() and not processes:
            return gpus
        pids = sorted({pid for on_gpu in processes.values() for pid, _ in on_gpu})
        cgroups = await shell.run(nvidia.cgroup_query(pids), timeout=LIMIT) if pids else Completed(0, "", "")
    except (CommandError, TimeoutError):
        return gpus
    return nvidia.with_processes(gpus, processes, nvidia.parse_cgroups(cgroups.stdout))


async def _read_amd(shell: Shell, timeout: float) -> tuple[Gpu, ...]:
    done = await _run(shell, amd.QUERY, timeout)
    if done.status == 0:
        return amd.parse_rocm(done.stdout)
    if not _is_missing(done):
        raise amd.failure("rocm-smi", done.status, done.stdout, done.stderr)
    metrics = await _run(shell, amd.METRICS, timeout)
    if _is_missing(metrics):
        raise amd.missing()
    if metrics.status:
        raise amd.failure("amd-smi", metrics.status, metrics.stdout, metrics.stderr)
    names = await _run(shell, amd.NAMES, timeout)
    return amd.parse_amd_smi(metrics.stdout, names.stdout if names.status == 0 else "")


async def _read_apple(shell: Shell, timeout: float) -> tuple[Gpu, ...]:
    limits, figures = await asyncio.gather(_run(shell, apple.LIMITS, timeout), _run(shell, apple.QUERY, timeout))
    if figures.status:
        raise CommandError("ioreg cannot be run there.", "Is that node a Mac? See `gpus` in cluster.toml.")
    return apple.parse(figures.stdout, limits.stdout)


async def _read_none(shell: Shell, timeout: float) -> tuple[Gpu, ...]:
    return ()


_READERS = {"nvidia": _read_nvidia, "amd": _read_amd, "apple": _read_apple, "none": _read_none}


async def _run(shell: Shell, argv: Sequence[str], timeout: float) -> Completed:
    """A command's end, where a program that is not there is one too: status 127, as a shell has it."""
    try:
        return await shell.run(argv, timeout=timeout)
    except CommandError as error:
        return Completed(error.status or 126, "", error.message)


def _is_missing(done: Completed) -> bool:
    return done.status == 127 or "not recognized" in done.stderr


def _completed(node: Node, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The GPUs, with totals from the inventory where the driver does not say."""
    return tuple(
        replace(gpu, memory_total_mib=node.vram[place])
        if gpu.memory_total_mib is None and place < len(node.vram)
        else gpu
        for place, gpu in enumerate(gpus)
    )


def _hung(node: Node, seconds: float) -> ReachError:
    return CommandError(
        f"The GPU driver of {node.name} did not answer within {seconds:g} s.",
        "A driver that hangs stays hung: look for Xid in dmesg, and reboot the host.",
    )
