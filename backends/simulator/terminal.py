"""What a command of the simulated shell gets and how it reads its arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol


class Terminal(Protocol):
    """Standard input and output of one command."""

    async def read(self, size: int) -> bytes:
        """Some input, b"" at its end."""
        ...

    async def write(self, data: str | bytes) -> None:
        """Some output."""
        ...

    async def complain(self, text: str) -> None:
        """Some standard error."""
        ...


Command = Callable[[list[str], Terminal], Awaitable[int]]

_WITH_VALUE = frozenset({"-n", "-u", "-o", "-p", "-l", "-i", "-c", "-lms", "--context", "--format", "-f", "-H"})


def words(argv: Sequence[str]) -> list[str]:
    """The arguments that are neither options nor their values."""
    found, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument in _WITH_VALUE:
            skip = True
        elif not argument.startswith("-"):
            found.append(argument)
    return found


def options(argv: Sequence[str]) -> dict[str, str]:
    """Options with their values, be they written --a=b or -a b."""
    found: dict[str, str] = {}
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if not name.startswith("-"):
            continue
        following = argv[index + 1] if index + 1 < len(argv) else ""
        found[name] = value if equals else following
    return found
