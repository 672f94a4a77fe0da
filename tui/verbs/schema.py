"""`tierdeck schema`: the JSON Schema of cluster.toml, for editors and for reading."""

from __future__ import annotations

import argparse
import json


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from backends.cluster.manual import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
    return 0
