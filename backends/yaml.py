"""Plain data as YAML 1.2: block style, every string in double quotes as JSON writes it, so that nothing is misread."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any


def yaml(data: Any) -> str:
    """A document of mappings, lists, strings, numbers and truths."""
    return "\n".join(_lines(data, 0)) + "\n"


def _lines(data: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    pairs = [(f"{_key(k)}:", v) for k, v in data.items()] if isinstance(data, Mapping) else [("-", v) for v in data]
    for head, value in pairs:
        if not isinstance(value, Mapping | list) or not value:
            yield f"{pad}{head} {_scalar(value)}"
        elif head == "-" and isinstance(value, Mapping):
            first, *rest = _lines(value, depth + 1)
            yield f"{pad}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{pad}{head}"
            yield from _lines(value, depth + 1)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z_][\w-]*", key, re.ASCII) else _scalar(key)


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", text)
