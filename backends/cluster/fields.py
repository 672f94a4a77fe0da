"""The kinds of values that cluster.toml holds, and what is expected where one is wrong."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

_DURATION = re.compile(r"\s*(\d{1,12}(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_REFERENCE = re.compile(r"(vault|azure-kv|keyring|pass|op|env|prompt):.*", re.DOTALL)
_MAC = re.compile(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
_SERVICE = re.compile(r"(systemd|launchd|windows):[A-Za-z0-9_.@:\\ -]+")
_QUIET = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_SIZE = re.compile(r"\s*(\d{1,12}(?:\.\d+)?)\s*(MiB|GiB|MB|GB)\s*", re.IGNORECASE)
_SIZE_MIB = {"mib": 1.0, "gib": 1024.0, "mb": 1e6 / 2**20, "gb": 1e9 / 2**20}


def seconds_of(value: object) -> float:
    """A duration in seconds, from a number or words such as "5s"; ValueError says what is expected."""
    if isinstance(value, bool):
        raise ValueError('a duration such as "5s", "250ms" or "2m"')
    if isinstance(value, int | float) and not abs(value) >= 1e12:
        return float(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a duration such as "5s", "250ms" or "2m"')
    return float(match[1]) * _UNITS[match[2] or "s"]


def _mib(value: object) -> object:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a size such as "24GiB" or "24576MiB"')
    return float(match[1]) * _SIZE_MIB[match[2].lower()]


def _reference(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        raise ValueError(
            "a reference (env:NAME, keyring:SERVICE/NAME, pass:PATH, op:ITEM, vault:PATH#FIELD, prompt:LABEL), "
            "never the secret itself"
        )
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('an address such as "http://10.0.10.20:8080"')
    if parts.username or parts.password:
        raise ValueError("an address without a name or password in it; put the key into api_key, as a reference")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("a port between 1 and 65535") from None
    return value.rstrip("/")


def _address(value: str) -> str:
    try:
        parts = urlsplit(f"tcp://{value}")
        whole = parts.hostname is not None and parts.port is not None and parts.netloc == value
    except ValueError:
        whole = False
    if not whole:
        raise ValueError('a host and a port, such as "10.0.10.20:5432"')
    return value


def _name(value: str) -> str:
    if not value.strip() or len(value) > 120 or any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("a name of 1 to 120 characters, none of them control characters")
    return value


def _mac(value: str) -> str:
    if not _MAC.fullmatch(value):
        raise ValueError('a hardware address such as "AA:BB:CC:DD:EE:FF"')
    return value


def _service(value: str) -> str:
    if not _SERVICE.fullmatch(value):
        raise ValueError("systemd:NAME, launchd:LABEL or windows:NAME")
    return value


def _quiet(value: str) -> str:
    if not _QUIET.fullmatch(value):
        raise ValueError('hours such as "23:00-07:00"')
    return value


def _heartbeat(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        return _url(value)
    return value


Quiet = Annotated[str, AfterValidator(_quiet)]
Heartbeat = Annotated[str, AfterValidator(_heartbeat)]
Duration = Annotated[float, BeforeValidator(seconds_of), Field(gt=0, le=86400 * 7)]
Age = Annotated[float, BeforeValidator(seconds_of), Field(gt=0, le=86400 * 3660)]
Address = Annotated[str, AfterValidator(_address)]
Pause = Annotated[float, BeforeValidator(seconds_of), Field(ge=0, le=3600)]
Mib = Annotated[float, BeforeValidator(_mib), Field(gt=0)]
Reference = Annotated[str, AfterValidator(_reference)]
Url = Annotated[str, AfterValidator(_url)]
Name = Annotated[str, AfterValidator(_name)]
Mac = Annotated[str, AfterValidator(_mac)]
Service = Annotated[str, AfterValidator(_service)]
