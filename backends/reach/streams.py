"""Streams from outside: bounded, decoded with replacement, cut into lines, freed of control sequences."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from backends.errors import ReachError
from backends.text import plain, safe

LONGEST_LINE: Final = 65_536
"""Characters after which a line is cut, so that a stream without line ends cannot fill the memory."""

MOST_OUTPUT: Final = 8 * 2**20
"""Bytes that one command may write in all; no answer we ask for is near that."""

Read = Callable[[int], Awaitable[bytes]]

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC and other strings, to their end
    r"|\x1b[ -/]*[0-~]?"
)


def clean(line: str) -> str:
    """The line without escape sequences and control characters; of a progress bar only its last state."""
    return safe(_SEQUENCE.sub("", line.rstrip("\r\n").rpartition("\r")[2])).replace("\n", " ")


def first_words(text: str, longest: int = 300) -> str:
    """What a program said, fit for an error message: its first line with words in it, cleaned and cut."""
    return next((words for line in text[:20_000].splitlines() if (words := plain(clean(line), longest))), "")


async def read_all(read: Read, *, limit: int = MOST_OUTPUT) -> bytes:
    """Everything until the end of a stream; ReachError when it is more than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while chunk := await read(65_536):
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise ReachError(f"A command wrote more than {limit // 2**20} MB; the rest is not read.")
    return b"".join(parts)


@asynccontextmanager
async def tail_of(read: Read, *, limit: int = 4096) -> AsyncGenerator[asyncio.Task[bytes], None]:
    """A task that reads a stream to its end and keeps the last `limit` bytes; it is ended on leaving."""

    async def drain() -> bytes:
        tail = b""
        while chunk := await read(65_536):
            tail = (tail + chunk)[-limit:]
        return tail

    task = asyncio.create_task(drain())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def split_lines(read: Read) -> AsyncGenerator[str, None]:
    """The lines of a stream of bytes, without their ends; one that is too long comes in pieces."""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    rest = ""
    while chunk := await read(65_536):
        *lines, rest = (rest + decode(chunk)).split("\n")
        while len(rest) > LONGEST_LINE:
            lines.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        for line in lines:
            yield line.removesuffix("\r")
    rest += decode(b"", final=True)
    if rest:
        yield rest
