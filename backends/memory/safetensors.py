"""Reads the header of a safetensors file, which is JSON, and the config.json beside it; nothing of the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backends.memory.headers import REMOTE_LIMIT, Header, HeaderError, Read, Tensor, Value
from backends.memory.quants import Kind

INDEX = "model.safetensors.index.json"
"""Names the files of a model that consists of several."""

_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
_MOST_TENSORS = 100_000


async def read_safetensors(read: Read, limit: int = REMOTE_LIMIT) -> tuple[Tensor, ...]:
    """The tensors of one file; raises HeaderError, and whatever `read` raises."""
    first = await read(0, 256 << 10)
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or length < 2 or first[8:9] != b"{":
        raise HeaderError("it is no safetensors file: no JSON stands where its header should be.")
    if length > limit:
        raise HeaderError(f"its header is said to take {length} bytes; {limit >> 20} MB is as much as is fetched.")
    raw = first[8 : 8 + length]
    while len(raw) < length:
        more = await read(8 + len(raw), length - len(raw))
        if not more:
            raise HeaderError("it ends in the middle of its header: the file is incomplete.")
        raw += more
    table = json_object(raw)
    table.pop("__metadata__", None)
    if len(table) > _MOST_TENSORS:
        raise HeaderError(f"it claims {len(table)} tensors, which no model has: the file is broken.")
    return tuple(_tensor(name, said) for name, said in table.items())


def json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object from outside; raises HeaderError where it is none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise HeaderError("its JSON cannot be read: the file is broken.") from None
    if not isinstance(found, dict):
        raise HeaderError("its JSON is no object: the file is broken.")
    return found


def shards(index: Mapping[str, Any]) -> list[str]:
    """The files of a model that consists of several, as its index names them."""
    files = index.get("weight_map")
    names = sorted({str(name) for name in files.values()}) if isinstance(files, dict) else []
    if not names or len(names) > 1024 or any("/" in name or not name.endswith(".safetensors") for name in names):
        raise HeaderError(f"{INDEX} names no files beside it: it is broken.")
    return names


def header_of(config: Mapping[str, Any], tensors: tuple[Tensor, ...]) -> Header:
    """One header of a model's configuration and all of its tensors."""
    text = config.get("text_config")
    values: dict[str, Value] = {}
    for source in (config, text if isinstance(text, dict) else {}):
        values |= {key: value for key, value in source.items() if isinstance(value, str | int | float | bool)}
    return Header(values | {"general.architecture": str(config.get("model_type", ""))}, tensors)


def _tensor(name: str, said: object) -> Tensor:
    shape = said.get("shape") if isinstance(said, dict) else None
    kind = said.get("dtype") if isinstance(said, dict) else None
    if not isinstance(shape, list) or not all(type(dim) is int and 0 <= dim < 1 << 40 for dim in shape):
        raise HeaderError(f"its tensor {name[:80]!r} has no shape that makes sense: the file is broken.")
    if not isinstance(kind, str) or kind not in _BYTES:
        raise HeaderError(f"its tensor {name[:80]!r} has the type {str(kind)[:20]!r}, which is not known here.")
    tensor = Tensor(name, tuple(reversed(shape)) or (1,), Kind(kind, 1, _BYTES[kind]))
    if tensor.elements >= 1 << 50:
        raise HeaderError(f"its tensor {name[:80]!r} has an impossible shape: the file is broken.")
    return tensor
