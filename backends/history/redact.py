"""A text without what tells whose it is: names of the inventory become roles, addresses and keys become marks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from backends.cluster.inventory import Inventory

_MARKS: Final = (
    (re.compile(r"\b[\w.+-]+@[\w.-]+"), "<person>"),
    (re.compile(r"\b((sk|hf|ghp|xox[a-z])[-_]|Bearer |eyJ)[\w./+=-]{8,}"), "<key>"),
    (re.compile(r"\b([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b"), "<hardware address>"),
    (re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b"), "<address>"),
    (re.compile(r"(?<![\w:])([0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])"), "<address>"),
    (re.compile(r"(/home|/Users|[A-Z]:\\Users\\)[/\\]?[^/\\\s:,]+"), r"\1/<person>"),
    (re.compile(r"\b[\w-]+(\.[\w-]+)*\.(local|lan|home|internal|fritz\.box|ts\.net)\b"), "<host>"),
    (re.compile(r"\b[0-9a-fA-F]{32,}\b"), "<number>"),
)  # fmt: skip


class Redactor:
    """Takes the names of one cluster out of texts; the same name becomes the same role everywhere."""

    def __init__(self, inventory: Inventory) -> None:
        roles = dict(_roles(inventory))
        self._roles = {name.lower(): role for name, role in roles.items()}
        words = "|".join(re.escape(name) for name in sorted(roles, key=len, reverse=True))
        self._names = re.compile(rf"(?<![\w-])({words})(?![\w-])", re.IGNORECASE) if words else None

    def __call__(self, text: str) -> str:
        """The text without names, addresses, people and keys."""
        if self._names is not None:
            text = self._names.sub(lambda found: self._roles[found[0].lower()], text)
        for pattern, mark in _MARKS:
            text = pattern.sub(mark, text)
        return text


def _roles(inventory: Inventory) -> Iterator[tuple[str, str]]:
    yield inventory.name, "the cluster"
    for i, endpoint in enumerate(inventory.lamps, 1):
        for name in (endpoint.container, (endpoint.service or "").partition(":")[2]):
            if name:
                yield name, f"container-{i}"
        host = urlsplit(endpoint.url).hostname
        if host and host != "localhost":
            yield host, "<address>"
    for check in inventory.checks:
        yield from ((word, "<what it looks at>") for word in (check.path, check.folder) if word)
    for node in inventory.nodes:
        for name in node.queue.order:
            yield name, "another container"
    for i, endpoint in enumerate(inventory.lamps, 1):
        if endpoint.container:
            yield endpoint.container, f"container-{i}"
        yield endpoint.name, f"endpoint-{i}"
    for i, node in enumerate(inventory.nodes, 1):
        yield node.address, "<address>"
        if node.ssh is not None and node.ssh.user:
            yield node.ssh.user, "<person>"
        yield node.name, f"node-{i}"
