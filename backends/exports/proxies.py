"""A door in front of engines: Caddy or Traefik with a list of addresses, and a key where an engine asks for none.

Directives after Caddy's manual (2.6), keys after Traefik's file provider (3), whose templates read the environment:
labels of a container would hold the key itself, and cannot lead to another machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from backends.cluster.inventory import Inventory
from backends.cluster.outside import address, reachable
from backends.cluster.tables import Endpoint
from backends.errors import ProcedureError
from backends.yaml import yaml

KEY: Final = "TIERDECK_KEY"
"""The variable of the proxy's environment that holds the key in front of engines that have none."""

PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fd00::/8", "::1/128")
"""Whose addresses are let in if nothing is said."""


def engines(inventory: Inventory) -> list[Endpoint]:
    """The engines that a proxy can lead to, each behind the path of its name."""
    found = [e for e in reachable(inventory) if e.engine not in ("litellm", "http")]
    if not found:
        raise ProcedureError(
            "This cluster has no engine that a proxy could lead to.", "Name endpoints in cluster.toml."
        )
    return found


def path_of(endpoint: Endpoint) -> str:
    """The path behind which an endpoint is."""
    return "/" + re.sub(r"[^A-Za-z0-9._/-]", "-", endpoint.name).strip("/")


def caddy(inventory: Inventory, listen: str, allowed: Sequence[str] = PRIVATE) -> str:
    """A Caddyfile: /TIER/NAME/... leads to an engine, for allowed addresses and who has its key."""
    lines = [
        f"# {inventory.name}: written by `tierdeck export caddy`",
        f"{listen} {{",
        "\troute {",
        f"\t@strangers not remote_ip {' '.join(allowed)}",
        "\trespond @strangers 403",
    ]
    for number, endpoint in enumerate(engines(inventory)):
        lines += ["", f"\t# {endpoint.engine}", f"\thandle_path {path_of(endpoint)}/* {{", "\t\troute {"]
        if endpoint.api_key is None:
            lines += [
                f'\t\t@shut{number} expression `{{env.{KEY}}} == ""`',
                f'\t\trespond @shut{number} "{KEY} is not set" 503',
                f'\t\t@keyless{number} not header Authorization "Bearer {{env.{KEY}}}"',
                f"\t\trespond @keyless{number} 401",
            ]
        lines += [*_to(address(inventory, endpoint), keyless=endpoint.api_key is None), "\t\t}", "\t}"]
    return _indented([*lines, "", "\trespond 404", "\t}", "}"])


def _indented(lines: Sequence[str]) -> str:
    """The lines as `caddy fmt` sets them: a tab for each open brace."""
    depth, told = 0, []
    for line in (line.strip() for line in lines):
        depth -= line == "}"
        told.append("\t" * depth + line if line else "")
        depth += line.endswith("{")
    return "\n".join(told) + "\n"


def _to(url: str, *, keyless: bool) -> list[str]:
    """What hands a request on; answers are streamed as they come."""
    parts = urlsplit(url)
    rewrite = [f"\t\trewrite * {parts.path}{{uri}}"] if parts.path else []
    own = ["\t\t\theader_up -Authorization"] if keyless else []
    return [
        *rewrite,
        f"\t\treverse_proxy {parts.scheme}://{parts.netloc} {{",
        "\t\t\tflush_interval -1",
        *own,
        "\t\t}",
    ]


def traefik(inventory: Inventory, allowed: Sequence[str] = PRIVATE) -> str:
    """A dynamic configuration for the file provider: the same, with a key nobody can guess where none is set."""
    routers: dict[str, Any] = {}
    services: dict[str, Any] = {}
    middlewares: dict[str, Any] = {"tierdeck-known": {"ipAllowList": {"sourceRange": list(allowed)}}}
    for endpoint in engines(inventory):
        name = re.sub(r"[^A-Za-z0-9-]", "-", endpoint.name)
        path = path_of(endpoint)
        rule = f"PathPrefix(`{path}/`)"
        if endpoint.api_key is None:
            rule += f" && Header(`Authorization`, `Bearer {{{{ env `{KEY}` | default (uuidv4) }}}}`)"
            middlewares.setdefault("tierdeck-own-key", {"headers": {"customRequestHeaders": {"Authorization": ""}}})
        own = ["tierdeck-own-key"] if endpoint.api_key is None else []
        middlewares[f"{name}-path"] = {"stripPrefix": {"prefixes": [path]}}
        routers[name] = {"rule": rule, "service": name, "middlewares": ["tierdeck-known", f"{name}-path", *own]}
        server = {"url": address(inventory, endpoint)}
        services[name] = {
            "loadBalancer": {"servers": [server], "responseForwarding": {"flushInterval": "-1ns"}},
        }
    return yaml({"http": {"routers": routers, "middlewares": middlewares, "services": services}})
