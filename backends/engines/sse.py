"""Server-sent events, cut out of a stream of bytes within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backends.engines.target import MIB

LONGEST_LINE: Final = MIB


class Overlong(Exception):
    """A line longer than LONGEST_LINE."""


class Events:
    """Takes bytes as they come and yields the (field, text) of each event; comments are passed over.

    The field is "data" or "error", as llama.cpp names what went wrong in mid-stream. Text is UTF-8, decoded line by
    line with replacement, so that a character cut by two packets stays whole.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._waiting = 0
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """The events that end within `chunk`."""
        first, *others = chunk.split(b"\n")
        self._keep(first)
        for part in others:
            yield from self._take(self._line())
            self._keep(part)

    def close(self) -> Iterator[tuple[str, str]]:
        """The event that the end of the stream ends."""
        yield from self._take(self._line())
        yield from self._take(b"")

    def _keep(self, part: bytes) -> None:
        self._waiting += len(part)
        if self._waiting > LONGEST_LINE:
            raise Overlong
        self._rest.append(part)

    def _line(self) -> bytes:
        line, self._rest, self._waiting = b"".join(self._rest), [], 0
        return line.removesuffix(b"\r")

    def _take(self, line: bytes) -> Iterator[tuple[str, str]]:
        if not line:
            if self._data:
                yield "data", b"\n".join(self._data).decode("utf-8", "replace")
            self._data, self._size = [], 0
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"error":
            yield "error", value.decode("utf-8", "replace")
        elif field == b"data":
            self._size += len(value)
            if self._size > LONGEST_LINE:
                raise Overlong
            self._data.append(value)
