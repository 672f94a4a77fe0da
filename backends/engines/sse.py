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
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """The events that end within `chunk`."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise Overlong
        for line in lines:
            yield from self._take(line.removesuffix(b"\r"))

    def close(self) -> Iterator[tuple[str, str]]:
        """The event that the end of the stream ends."""
        rest, self._rest = self._rest, b""
        yield from self._take(rest)
        yield from self._take(b"")

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
