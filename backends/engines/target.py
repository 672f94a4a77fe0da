"""Whom a probe asks and what comes back: the plain types that every engine shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from backends.cluster.words import Cause
from backends.text import plain

MIB: Final = 2**20

Via = tuple[str, int] | None
"""A way round: the host and port at which an SSH forward of the target listens."""


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint as it is asked: times in seconds, `timeout` for a whole probe, `slow` for its health call.

    `url` is the address as the node knows it (it names the target in evidence, in the Host header and to TLS),
    `via` where to connect instead. The key lives in memory only and is never shown.
    """

    url: str
    engine: str
    timeout: float = 3.0
    slow: float = 2.0
    key: SecretStr | None = field(default=None, repr=False)
    model: str | None = None
    metrics_url: str | None = None
    via: Via = None

    @property
    def headers(self) -> dict[str, str]:
        """The key as the header that all engines take it by, if there is one."""
        return {"Authorization": f"Bearer {self.key.get_secret_value()}"} if self.key else {}

    def without_key(self, text: str) -> str:
        """`text` as one safe line in which the key does not occur, should the server have repeated it."""
        secret = self.key.get_secret_value() if self.key else ""
        return plain(text.replace(secret, "***") if secret else text)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer; `seconds` is what it took from the first packet to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        """The beginning of the body, decoded with replacement, for recognising and quoting it."""
        return self.body[:4096].decode("utf-8", "replace").strip()


class ProbeFailure(Exception):
    """Why a request did not get what was asked for; a probe turns it into its result.

    `status` is the HTTP status where there was one, `retry_after` the seconds the server asked us to stay away;
    `connected` is False where nothing can have reached it.
    """

    def __init__(
        self,
        cause: Cause,
        evidence: str,
        *,
        status: int | None = None,
        seconds: float | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.cause = cause
        self.evidence = plain(evidence)
        self.status = status
        self.seconds = seconds
        self.retry_after = retry_after
        self.connected = True
        super().__init__(self.evidence)

    @property
    def internal(self) -> bool:
        """Whether the server itself failed (5xx), which says nothing about whether it is the right one."""
        return self.cause is Cause.BAD_RESPONSE and (self.status or 0) >= 500


def address(url: str) -> str:
    """The host and port of `url`, as evidence names them."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
