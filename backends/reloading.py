"""Sees that cluster.toml or cluster.d was changed, whoever did it, and reads them anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Final

from backends.clock import Clock
from backends.cluster.files import FOLDER, Loaded, load
from backends.cluster.inventory import Inventory
from backends.errors import InventoryError

LOOK: Final = 1.0
"""Seconds between two looks at the files; what was written is read once two of them saw the same."""

Marks = Mapping[Path, tuple[int, int, int]]
"""By what a file is known to be as it was: its time in ns, its size, its inode."""


async def changes(loaded: Loaded, refused: Callable[[str], None], clock: Clock) -> AsyncGenerator[Loaded, None]:
    """Each inventory that comes after `loaded`; of files that cannot be used `refused` is told in a sentence, once."""
    inventory, last, read = loaded.inventory, dict[Path, tuple[int, int, int]](), None
    while True:
        before, last = last, await asyncio.to_thread(_marks, loaded.path)
        if last == before and last != read:
            read = last
            try:
                found = await asyncio.to_thread(load, loaded.path)
            except InventoryError as error:
                refused(f"the inventory stays as it was read before: {error}")
            else:
                if found.inventory != inventory:
                    inventory = found.inventory
                    yield found
        await clock.sleep(LOOK)


def _marks(path: Path) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for file in (path, *(path.parent / FOLDER).glob("*.toml")):
        try:
            status = file.stat()
        except OSError:  # gone, or out of reach: reading it says which
            continue
        found[file] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def told(before: Inventory, after: Inventory) -> str:
    """What a person should know of a changed inventory, in a line."""
    had, has = before.endpoint_named, after.endpoint_named
    names = [f"+ {name}" for name in has if name not in had] + [f"- {name}" for name in had if name not in has]
    names += [f"~ {name}" for name in has if name in had and had[name] != has[name]]
    return f"the inventory was read anew: {', '.join(names) or 'no endpoint changed'}"
