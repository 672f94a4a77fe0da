"""A lease on a node: who works on it, said on the node itself, so that other machines see it.

It is kept in one of several places; ages are by the node's own clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from backends.errors import ReachError
from backends.text import plain

STALE: Final = 60.0
"""Seconds without a sign of life after which a lease may be taken over."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: `owner` is user@host:pid; `token` is this holding's alone."""

    owner: str
    host: str
    procedure: str
    node: str
    token: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease as it was found: held for so many seconds, its last sign of life `silent` seconds ago."""

    holder: Holder
    held: float
    silent: float

    @property
    def stale(self) -> bool:
        """Whether its owner no longer renews it."""
        return self.silent >= STALE


class NoPlace(ReachError):
    """No lease can be kept in this place; another may do."""


class Place(Protocol):
    """Where the lease of one node may be kept; a ReachError where nobody can look."""

    @property
    def where(self) -> str:
        """The place, for people."""
        ...

    async def look(self) -> Seen | None:
        """Who holds it."""
        ...

    async def create(self, holder: Holder) -> bool:
        """Take it, unless somebody has; NoPlace where it cannot be kept here."""
        ...

    async def token(self) -> str | None:
        """Whose it is; None where it is nobody's, "" where it cannot be read yet."""
        ...

    async def beat(self, token: str) -> bool:
        """Give a sign of life; False where it is not that holder's any more."""
        ...

    async def clear(self, token: str) -> bool:
        """End the lease that has this token; False where another has it, or nobody."""
        ...


def holder_of(data: Mapping[str, object], node: str) -> Holder:
    """The holder that a lease names, in words that are safe to show."""

    def word(key: str, instead: str) -> str:
        found = data.get(key)
        return plain(found) if isinstance(found, str) and found else instead

    return Holder(
        owner=word("owner", "somebody"),
        host=word("host", ""),
        procedure=word("procedure", ""),
        node=word("node", node),
        token=word("token", ""),
    )
