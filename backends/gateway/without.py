"""A LiteLLM configuration without one node: what the gateway is given while that node is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from backends.cluster.inventory import Inventory
from backends.errors import GatewayError
from backends.gateway.document import Document, data, items, read, said
from backends.gateway.limits import chains
from backends.gateway.lint import endpoint_at

MARK: Final = "# tierdeck: without "
"""How a file begins from which a node was taken: it is not to be taken for the person's own."""

_WIDTH: Final = 1 << 20
"""Characters of a line before it is folded: never."""


@dataclass(frozen=True, slots=True)
class Without:
    """The file without a node's deployments.

    `groups` lost one, those in `stand_ins` their last and are answered by their first fallback that is left, those in
    `unserved` by nobody.
    """

    text: str
    groups: tuple[str, ...]
    stand_ins: Mapping[str, str]
    unserved: tuple[str, ...]


def without(text: str, inventory: Inventory, node: str, name: str) -> Without | None:
    """The file `name` without what leads to `node`, None where nothing does; GatewayError where it cannot be written.

    LiteLLM refuses a group it has no deployment of before it looks at fallbacks, so the first fallback's deployments
    are given its name.
    """
    document, whole = read(text, name), data(text, name)
    gone = {i for i, e in enumerate(document.entries) if _leads_to(inventory, said(e.params.get("api_base")), node)}
    if not gone:
        return None
    left: dict[str, list[int]] = {}
    for index, entry in enumerate(document.entries):
        if index not in gone:
            left.setdefault(entry.group, []).append(index)
    groups = tuple(dict.fromkeys(document.entries[index].group for index in sorted(gone)))
    instead = _stand_ins(document, [group for group in groups if group not in left], left)
    added = [
        {**deepcopy(whole["model_list"][index]), "model_name": group}
        for group, other in instead.items()
        for index in left[other]
    ]
    kept = [each for index, each in enumerate(whole["model_list"]) if index not in gone]
    shorter = f"{MARK}{node} while it is away; the whole file is kept beside it.\n{_edited(text, gone, added, name)}"
    if data(shorter, name) != {**whole, "model_list": [*kept, *added]}:
        raise GatewayError(f"{name} cannot be edited without a change of more than that.")
    unserved = tuple(group for group in groups if group not in left and group not in instead)
    return Without(shorter, groups, instead, unserved)


def _leads_to(inventory: Inventory, base: str, node: str) -> bool:
    endpoint, named = endpoint_at(inventory, base), inventory.node_named[node]
    if endpoint is not None:
        return endpoint.node == node
    try:
        host = urlsplit(base if "://" in base else f"http://{base}").hostname
    except ValueError:
        return False
    return host in (named.name, named.address)


def _stand_ins(document: Document, emptied: Sequence[str], left: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """For each group without deployments the first of its fallbacks that has some."""
    told = {said(group): [said(other) for other in items(others)] for group, others in chains(document, "fallbacks")}
    default = [
        said(other)
        for table in ("router_settings", "litellm_settings")
        for other in items(document.table(table).get("default_fallbacks"))
    ]
    found = {g: next((o for o in [*told.get(g, told.get("*", [])), *default] if o in left), None) for g in emptied}
    return {group: other for group, other in found.items() if other is not None}


def _edited(text: str, gone: set[int], added: Sequence[dict[str, Any]], name: str) -> str:
    """The text without the deployments in `gone`, and with those in `added` at the end of its list."""
    yaml = YAML(typ="rt")
    yaml.version = (1, 1)  # as PyYAML, by which LiteLLM reads it
    yaml.preserve_quotes = True
    yaml.width = _WIDTH
    try:
        root = yaml.load(text)
        for index in sorted(gone, reverse=True):
            del root["model_list"][index]
        root["model_list"].extend(added)
        stream = StringIO()
        yaml.dump(root, stream)
    except (YAMLError, ValueError, TypeError) as error:
        raise GatewayError(f"{name} cannot be edited: {type(error).__name__}.") from None
    return stream.getvalue()
