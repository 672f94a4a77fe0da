"""The GPUs of a node that only a Kubernetes API leads to, by the DCGM exporter that runs there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from backends.cluster.reading import Gpu
from backends.cluster.tables import Node
from backends.errors import RuntimeFailure
from backends.gpus import dcgm

if TYPE_CHECKING:
    from backends.reach.kubernetes.exporter import DcgmExporter

INTERVAL: Final = 10.0
"""Seconds between two questions; the exporter measures every 30 s unless told otherwise."""

ABSENT_PAUSE: Final = 60.0
"""Seconds before a node that has no exporter is looked at again."""


async def read_exported(node: Node, exporter: DcgmExporter) -> tuple[Gpu, ...] | None:
    """The GPUs as they were measured; None where there is no exporter.

    Also where we may not look for one, and the inventory does not say that the node has GPUs to be read.
    """
    try:
        text = await exporter.read()
        return None if text is None else dcgm.parse(text, await exporter.containers())
    except RuntimeFailure as failure:
        if failure.status == 403 and node.gpus == "none":
            return None
        raise


async def stream_exported(node: Node, exporter: DcgmExporter) -> AsyncGenerator[tuple[Gpu, ...], None]:
    """The GPUs again and again, until closed; ReachError where they cannot be read any more."""
    while True:
        gpus = await read_exported(node, exporter)
        if gpus is not None:
            yield gpus
        await asyncio.sleep(ABSENT_PAUSE if gpus is None else INTERVAL)
