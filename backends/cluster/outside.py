"""The inventory as other programs see it: addresses from anywhere in the network, and the way a health check takes."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from backends.cluster.engines import ENGINES
from backends.cluster.inventory import Inventory
from backends.cluster.tables import Check, Endpoint


def address(inventory: Inventory, endpoint: Endpoint, url: str | None = None) -> str:
    """An address of an endpoint in which `localhost` is its node."""
    parts = urlsplit(url or endpoint.url)
    node = inventory.node_named.get(endpoint.node or "")
    if parts.hostname != "localhost" or node is None:
        return url or endpoint.url
    host = f"[{node.address}]" if ":" in node.address else node.address
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host))


def health(inventory: Inventory, endpoint: Endpoint) -> str:
    """The address of an endpoint's health call."""
    return address(inventory, endpoint) + ENGINES[endpoint.engine].health


def reachable(inventory: Inventory) -> list[Endpoint]:
    """Endpoints that another program can ask; what is reached through SSH only is not among them."""
    return [e for e in inventory.endpoints if e.via is None]


def outward(inventory: Inventory, check: Check) -> str | None:
    """The address at which another program can look for a check; None where only tierdeck can.

    A folder that is kept in sync is seen from inside only; that Syncthing itself is well, from anywhere.
    """
    if check.via is not None or check.kind in ("command", "age"):
        return None
    if check.kind == "tcp":
        return address(inventory, check.lamp, f"tcp://{check.address}")
    whole = address(inventory, check.lamp, check.url)
    return f"{whole}/rest/noauth/health" if check.kind == "syncthing" else whole


def key_variable(endpoint: Endpoint) -> str | None:
    """The environment variable that holds its key: the one that env: names, else one after its name."""
    if endpoint.api_key is None:
        return None
    kind, _, name = endpoint.api_key.partition(":")
    return name if kind == "env" else re.sub(r"\W", "_", f"{endpoint.name}_key", flags=re.ASCII).upper()
