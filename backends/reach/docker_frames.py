"""The frames in which Docker sends what a container without a terminal writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp


class Frames:
    """Takes apart the frames in which Docker sends the output of a container without a terminal."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._left = 0

    async def read(self, n: int) -> bytes:
        """Up to `n` bytes of it; b"" at its end."""
        while not self._left:
            try:
                header = await self._content.readexactly(8)
            except asyncio.IncompleteReadError:
                return b""
            self._left = int.from_bytes(header[4:])
        data = await self._content.read(min(n, self._left))
        self._left -= len(data)
        return data
