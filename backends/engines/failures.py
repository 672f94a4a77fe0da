"""What went wrong on the way, named: from the exceptions of libraries to one cause and the system's own words."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import aiohttp
from aiohttp.http_exceptions import BadHttpMessage, ContentLengthError
from httptools import HttpParserError, HttpParserUpgrade

from backends.cluster.words import Cause
from backends.engines.target import ProbeFailure
from backends.errors import ReachError

_UNREACHABLE: Final = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.EACCES,
        errno.EPERM,
        errno.EADDRNOTAVAIL,
        errno.ENOENT,
    }
)
_RESET: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE})
_CUT: Final = re.compile(r"Not enough data|not completed|without sending complete")
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


class Unconnected(OSError):
    """There is no connection; its cause is what the system or the resolver said."""


_CONNECTING: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, Unconnected)

FAILURES: Final = (aiohttp.ClientError, BadHttpMessage, HttpParserError, HttpParserUpgrade, OSError, UnicodeError)
"""What a request may raise; anything else is a fault of ours and goes on."""


def named(error: BaseException, where: str, *, tls: bool, through: bool, answering: bool) -> ProbeFailure:
    """The failure that `error` amounts to.

    `where` is the address asked; `tls`: it was asked by TLS; `through`: over an SSH forward, which closes at once where
    the far end refuses; `answering`: the answer had begun. Raises ReachError where this machine has no file
    descriptors left, since that says nothing about the endpoint.
    """
    chain = list(_chain(error))
    failure = _named(chain, where, tls=tls, through=through, answering=answering)
    failure.connected = answering or not any(isinstance(one, _CONNECTING) for one in chain)
    return failure


def _named(chain: list[BaseException], where: str, *, tls: bool, through: bool, answering: bool) -> ProbeFailure:
    for one in reversed(chain):
        if isinstance(one, socket.gaierror):
            return ProbeFailure(Cause.DNS, f"no address for {where}: {one.strerror or one}")
        if isinstance(one, UnicodeError):
            return ProbeFailure(Cause.DNS, f"no address for {where}: not a host name")
        if isinstance(one, ssl.SSLCertVerificationError):
            return ProbeFailure(Cause.TLS, f"certificate of {where} not accepted: {one.verify_message}")
        if isinstance(one, ssl.SSLError):
            words = (one.reason or str(one)).replace("_", " ").lower()
            return ProbeFailure(Cause.TLS, f"no TLS with {where}: {words}")
    number = next(filter(None, map(_errno, chain)), None)
    connecting = any(isinstance(one, aiohttp.ClientConnectorError) for one in chain)
    if number is not None:
        return _by_number(number, where, handshake=tls and connecting, through=through, answering=answering)
    return _by_kind(chain, where, through=through, answering=answering)


def _by_number(number: int, where: str, *, handshake: bool, through: bool, answering: bool) -> ProbeFailure:
    words = os.strerror(number)
    if number in _OURS:
        raise ReachError(f"{words} on this machine, so {where} cannot be asked.", "Raise the limit: ulimit -n 4096")
    if number == errno.ECONNREFUSED:
        return ProbeFailure(Cause.REFUSED, f"connect refused by {where}")
    if number == errno.ETIMEDOUT:
        return ProbeFailure(Cause.TIMEOUT, f"{words}: {where}")
    if number in _UNREACHABLE:
        return ProbeFailure(Cause.UNREACHABLE, f"{words}: {where}")
    if number in _RESET and handshake:
        return ProbeFailure(Cause.TLS, f"no TLS with {where}: it broke off the handshake")
    if number in _RESET and through and not answering:
        return _refused_there(where)
    if number in _RESET:
        return ProbeFailure(Cause.RESET, f"connection reset by {where}" + (" in mid-answer" if answering else ""))
    return ProbeFailure(Cause.UNREACHABLE, f"{words}: {where}")


def _by_kind(chain: list[BaseException], where: str, *, through: bool, answering: bool) -> ProbeFailure:
    for one in chain:
        if isinstance(one, aiohttp.InvalidURL):
            return ProbeFailure(Cause.CONFIG, f"not an address that can be asked: {one}")
        if isinstance(one, TimeoutError):
            return ProbeFailure(Cause.TIMEOUT, f"no connection to {where} in time")
        if isinstance(one, ContentLengthError) or _CUT.search(str(one)):
            return ProbeFailure(Cause.RESET, f"{where} broke off in mid-answer")
    if any(isinstance(one, aiohttp.ServerDisconnectedError) or "disconnected without" in str(one) for one in chain):
        if through and not answering:
            return _refused_there(where)
        return ProbeFailure(Cause.RESET, f"closed by {where} before it answered")
    words = str(chain[-1]).splitlines() or [type(chain[-1]).__name__]
    return ProbeFailure(Cause.BAD_RESPONSE, f"{where} does not speak HTTP: {words[0]}")


def _refused_there(where: str) -> ProbeFailure:
    return ProbeFailure(Cause.REFUSED, f"connect refused by {where} on its node (its SSH forward closed at once)")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it came from, the outermost first; at most 20."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _errno(error: BaseException) -> int | None:
    """The system's number of an error; where several addresses failed differently, that of a refusal, else the last."""
    if not isinstance(error, OSError):
        return None
    if error.errno is not None and error.errno > 0:
        return error.errno
    if isinstance(error, ConnectionResetError):
        return errno.ECONNRESET
    numbers = [int(n) for n in _ERRNO.findall(str(error))]
    return errno.ECONNREFUSED if errno.ECONNREFUSED in numbers else numbers[-1] if numbers else None
