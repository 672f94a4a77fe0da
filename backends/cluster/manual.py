"""The manual of cluster.toml: its JSON Schema, described by the attribute docstrings of the inventory.

Pydantic could gather them itself, but does so whenever the models are imported: 25 ms of every start.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

from backends.cluster import inventory, tables


def schema() -> dict[str, Any]:
    """The JSON Schema of cluster.toml, every key with its meaning."""
    described = inventory.Inventory.model_json_schema()
    texts = _docstrings()
    for name, table in ({"Inventory": described} | described["$defs"]).items():
        for key, field in table.get("properties", {}).items():
            if text := texts.get((name, key)):
                field["description"] = text
    described["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    described["title"] = "cluster.toml"
    return described


def _docstrings() -> dict[tuple[str, str], str]:
    """The string behind each attribute, by (class, attribute)."""
    found = {}
    written = [*ast.parse(inspect.getsource(tables)).body, *ast.parse(inspect.getsource(inventory)).body]
    for table in written:
        if not isinstance(table, ast.ClassDef):
            continue
        for pair in zip(table.body, table.body[1:], strict=False):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[table.name, name] = inspect.cleandoc(text)
    return found
