"""The hosts of ~/.ssh/config, as far as tierdeck needs them; the file is only read, and nothing in it is run."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

LARGEST: Final = 1 << 20
"""Bytes read of one file."""

MOST_FILES: Final = 64
"""Files read in all; Include may name many, or itself."""

_WORD: Final = re.compile(r"[\w.@:+-]{1,100}")
"""Names taken as names of nodes; others are left out."""

_LINE: Final = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*")


@dataclass(frozen=True, slots=True)
class SshHost:
    """A host as ~/.ssh/config describes it; None where it does not say."""

    name: str
    address: str
    user: str | None = None
    port: int | None = None
    key: str | None = None
    jump: str | None = None


@dataclass(slots=True)
class _Block:
    patterns: list[str]
    options: dict[str, str] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        no = any(fnmatchcase(name, p[1:]) for p in self.patterns if p.startswith("!"))
        return not no and any(fnmatchcase(name, p) for p in self.patterns if not p.startswith("!"))


def read_hosts(path: Path) -> tuple[SshHost, ...]:
    """The hosts that the file names, in its order; patterns only add to them. Nothing where there is no such file."""
    blocks = [_Block(["*"])]
    budget = [MOST_FILES]
    for keyword, value in _lines(path, path.parent, budget):
        if keyword == "host":
            blocks.append(_Block(_words(value)))
        elif keyword == "match":
            blocks.append(_Block([]))  # what it depends on is not ours to find out
        else:
            blocks[-1].options.setdefault(keyword, value)
    names = dict.fromkeys(p for b in blocks for p in b.patterns if _WORD.fullmatch(p))
    return tuple(_host(name, blocks) for name in names)


def _host(name: str, blocks: list[_Block]) -> SshHost:
    options: dict[str, str] = {}
    for block in blocks:
        if block.holds(name):
            options = block.options | options
    port = options.get("port", "")
    key = _one(options.get("identityfile", ""))
    address = _one(options.get("hostname", "")).replace("%h", name).replace("%%", "%")
    return SshHost(
        name=name,
        address=address if _WORD.fullmatch(address) else name,
        user=_one(options.get("user", "")) or None,
        port=int(port) if port.isascii() and port.isdecimal() and 0 < int(port[:9]) < 65536 else None,
        key=key if key and "%" not in key and key.lower() != "none" else None,
        jump=_jump(options),
    )


def _jump(options: Mapping[str, str]) -> str | None:
    """What stands between us and the host."""
    command = _one(options.get("proxycommand", "none")).lower() != "none"
    jump = _one(options.get("proxyjump", "none"))
    return jump if jump.lower() != "none" else "A ProxyCommand" if command else None


def _lines(path: Path, home: Path, budget: list[int]) -> Iterator[tuple[str, str]]:
    """The keywords in lower case with their values, of the file and of those it includes where it does."""
    budget[0] -= 1
    if budget[0] < 0:
        return
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST).decode(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        keyword, value = match[1].lower(), match[2]
        if keyword != "include":
            yield keyword, value
            continue
        for pattern in _words(value):
            for included in sorted(glob.glob(str(home / Path(pattern).expanduser()))):
                yield from _lines(Path(included), home, budget)


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value, comments=True)
    except ValueError:
        return value.split()


def _one(value: str) -> str:
    return next(iter(_words(value)), "")
